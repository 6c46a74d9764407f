"""Ahead of need: which specs this worker serves, their engines imported, their schemas told.

A worker that serves a single spec loads it as soon as it knows it, and again when its runner was lost. One that
was launched keeps the settings that it began with: replicas are replaced one by one, not reloaded all at once.
"""

from collections.abc import Callable, Collection, Container

import msgspec

from stoker.schemas.catalog import Model, Spec
from stoker.services.worker.heartbeats import Identity
from stoker.services.worker.models.loader import Loader
from stoker.services.worker.models.weights.resolve import is_cached
from stoker.services.worker.runner.messages import Describe, Message, Prepare


class Readiness:
    """`load(model, spec)` begins a load; `send(engine, message)` reaches the engine's runner, or is left out
    while there is none.
    """

    def __init__(
        self,
        identity: Identity,
        engines: Container[str],
        loader: Loader,
        send: Callable[[str, Message], None],
        load: Callable[[str, Spec], None],
    ) -> None:
        self._identity = identity
        self._engines = engines
        self._loader = loader
        self._send = send
        self._load = load
        self._imported: set[str] = set()
        self._dedicated: tuple[str, Spec] | None = None
        self._described: dict[tuple[str, str], Describe] = {}
        """What a runner was asked to describe, by model and spec: each new runner is asked again."""

    def model_changed(self, name: str, model: Model | None) -> None:
        """The catalog has changed: look for the weights, get ready for the engine, learn what it takes."""
        if self._identity.is_pinned and self._dedicated is not None:
            return
        specs = tuple(spec for spec in model.specs if self._serves(name, spec)) if model is not None else ()
        mine = msgspec.structs.replace(model, specs=specs) if model is not None and specs else None
        self._loader.model_changed(name, mine)
        self._described = {key: asked for key, asked in self._described.items() if key[0] != name}
        self._imported |= {spec.engine for spec in specs}
        if specs:
            self._import_engines(self._imported)
        for spec in specs:
            path = is_cached(spec.url) if spec.url else None
            if path is not None:
                describe = Describe(name, spec.engine, str(path), spec.options)
                self._described[name, spec.name] = describe
                self._send(spec.engine, describe)
            if self._identity.spec:
                self._dedicated = (name, spec)
                self._load(name, spec)

    def pinned(self, model: str, spec: Spec) -> Spec:
        """A spec as this worker has it."""
        own = self._dedicated if self._identity.is_pinned else None
        return own[1] if own is not None and (model, spec.name) == (own[0], own[1].name) else spec

    def _serves(self, model: str, spec: Spec) -> bool:
        identity = self._identity
        return (
            spec.engine in self._engines
            and spec.profile in ("", identity.profile)
            and identity.spec in ("", f"{model}/{spec.name}")
        )

    def _import_engines(self, engines: Collection[str]) -> None:
        for engine in sorted(engines, reverse=True):  # the light ones are later in the alphabet
            self._send(engine, Prepare(engine))

    def runner_ready(self, engines: Collection[str]) -> None:
        """A new runner, of these engines, knows nothing."""
        self._import_engines(self._imported & set(engines))
        for describe in self._described.values():
            if describe.engine in engines:
                self._send(describe.engine, describe)
        if self._dedicated is not None and self._dedicated[1].engine in engines:
            self._load(*self._dedicated)
