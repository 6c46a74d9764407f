"""Schedulers by the names that people use, made for a run from the configuration that a checkpoint came with.

A scheduler belongs to a run and not to the weights: models of one checkpoint that differ in it share them.
"""

from collections.abc import Mapping
from typing import Any

import diffusers
from diffusers import SchedulerMixin

from stoker.schemas.samplers import SAMPLERS, Form, known_samplers, sampler_named
from stoker.services.worker.engines.base import EngineError

_FLOW = "FlowMatch"


def form_of(name: str) -> Form:
    """The class of a sampler and its settings. Raises EngineError for one that is not known."""
    found = sampler_named(name)
    if found in SAMPLERS:
        return SAMPLERS[found]
    kind = getattr(diffusers, name, None)
    if isinstance(kind, type) and issubclass(kind, SchedulerMixin):
        return name, {}
    message = f"there is no sampler {name!r}; there are {known_samplers()}, or a scheduler class of diffusers"
    raise EngineError(message, "validation", field="sampler")


def made(config: Any, own: type, name: str, overrides: dict[str, Any] | None = None) -> Any:
    """A new scheduler. config, own: what the pipeline came with; name "": that. overrides: what its weights
    demand.

    Raises EngineError for one that predicts something else than the model was trained for.
    """
    kind, settings = form_of(name) if name else (own.__name__, {})
    if name and (_FLOW in kind) != (_FLOW in own.__name__):
        wanted = "flow matching" if _FLOW in kind else "noise"
        message = f"the sampler {name!r} is for models that predict {wanted}, and this one does not"
        raise EngineError(message, "validation", field="sampler")
    demanded = {**settings, **(overrides or {})}
    return getattr(diffusers, kind).from_config(config, **demanded)


class Schedulers:
    """The schedulers of one pipeline. demanded: what its weights demand of any."""

    def __init__(self, pipeline: Any, demanded: Mapping[str, Any]) -> None:
        own = getattr(pipeline, "scheduler", None)
        has_one = isinstance(own, SchedulerMixin) and not _is_combined(pipeline)
        self._own: type | None = type(own) if has_one else None
        self._config: Any = getattr(own, "config", None)
        self._demanded = dict(demanded)

    def use(self, pipeline: Any, name: str) -> None:
        """Give a pipeline on these weights a new scheduler of this name; "": its own. Raises EngineError."""
        if self._own is None:
            if name:
                message = f"{type(pipeline).__name__} has a scheduler of its own and takes no other"
                raise EngineError(message, "validation", field="sampler")
            return
        pipeline.scheduler = made(self._config, self._own, name, self._demanded)


def _is_combined(pipeline: Any) -> bool:
    """Whether it is several pipelines in one, each with its scheduler."""
    return type(pipeline).__name__.endswith("CombinedPipeline")
