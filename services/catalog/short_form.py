"""Stoker's own short form of a model: one entry of `models:`, and the handlers of custom jobs."""

from typing import Any

import msgspec

from stoker.schemas.catalog import DEFAULT_SPEC, Adapter, Feature, Model, Spec
from stoker.schemas.subjects import BadName, check_name
from stoker.services.catalog.documents import Document, check_keys, convert
from stoker.services.catalog.engines import check_options, check_url
from stoker.services.catalog.files import absolute, size_bytes, stamp
from stoker.services.catalog.model_defaults import check_defaults
from stoker.services.catalog.sizes import MAX_SLOTS, check_count, check_seconds, read_size

ENGINE_FEATURES: dict[str, tuple[Feature, ...]] = {
    "llamacpp": ("TextGeneration", "TextEmbedding"),
    "diffusers": ("ImageGeneration",),
    "spandrel": ("SuperResolution",),
    "whisper": ("SpeechToText",),
    "vllm": ("TextGeneration",),
    "ollama": ("TextGeneration", "TextEmbedding"),
    "openai": ("TextGeneration",),
    "synthetic": ("TextGeneration",),
}
IMAGE_DEFAULTS = {
    "width", "height", "num_inference_steps", "guidance_scale", "negative_prompt", "num_frames",
    "prompt_weights", "clip_skip",
}  # fmt: skip
TEXT_DEFAULTS = {"max_tokens", "temperature", "top_p", "top_k", "min_p", "repeat_penalty"}

SPEECH_DEFAULTS = {"language", "prompt", "temperature"}


DEFAULTS_OF: dict[Feature, set[str]] = {
    "ImageGeneration": IMAGE_DEFAULTS,
    "TextGeneration": TEXT_DEFAULTS,
    "SpeechToText": SPEECH_DEFAULTS,
}
"""What a model may have as defaults, by its features."""


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `models:`.

    engine: what runs it. url: of its weights: file:// (relative to the file), a path, hf://owner/name[/file],
    ollama://name. features: what it can do; else what its engine can. defaults: of requests that leave them
    unset. options: of the engine. adapters: LoRAs by name, each a URL; asked for as model_name. profile: only
    workers of this profile run it. memory: what it takes when loaded, as 512MB; else it is measured. slots:
    jobs at a time on one replica; 0 is the engine's own number. run_timeout_s: the longest run, in seconds.
    """

    engine: str
    url: str = ""
    features: tuple[Feature, ...] = ()
    defaults: dict[str, Any] = {}
    options: dict[str, Any] = {}
    adapters: dict[str, str] = {}
    profile: str = ""
    memory: int | str = 0
    slots: int = 0
    run_timeout_s: float = 600.0


def read_model(document: Document, name: str, entry: Any) -> Model:
    """One entry of `models:`. Raises ConfigurationError."""
    path = ("models", name)
    try:
        check_name(name)
    except BadName as error:
        raise document.place(*path).error(str(error)) from error
    given: ModelEntry = convert(document, path, entry, ModelEntry)
    engine = given.engine.lower()
    if engine not in ENGINE_FEATURES:
        known = ", ".join(sorted(ENGINE_FEATURES))
        raise document.place(*path, "engine").error(f"unknown engine {given.engine!r}; there are {known}")
    features = given.features or ENGINE_FEATURES[engine]
    known_defaults = set[str]().union(*(DEFAULTS_OF.get(feature, ()) for feature in features))
    check_keys(document, (*path, "defaults"), given.defaults, known_defaults)
    check_defaults(document, (*path, "defaults"), given.defaults)
    if not given.url and engine != "synthetic":
        raise document.place(*path).error("missing required field: url")
    check_options(document, (*path, "options"), engine, given.options)
    check_url(document, (*path, "url"), engine, given.url)
    check_count(document, (*path, "slots"), given.slots, MAX_SLOTS)
    check_seconds(document, (*path, "run_timeout_s"), given.run_timeout_s)
    url = absolute(document.file, given.url)
    spec = Spec(
        name=DEFAULT_SPEC,
        engine=engine,
        url=url,
        profile=given.profile,
        options=given.options,
        adapters=tuple(
            Adapter(name=adapter, url=absolute(document.file, where))
            for adapter, where in given.adapters.items()
        ),
        size_bytes=size_bytes(url),
        stamp=stamp(url),
        memory_bytes=read_size(document, (*path, "memory"), given.memory),
        slots=given.slots,
    )
    return Model(
        name=name,
        features=features,
        specs=(spec,),
        defaults=given.defaults,
        run_timeout_s=given.run_timeout_s,
        created_at=int(document.file.stat().st_mtime),
    )


def read_handler(document: Document, index: int, name: Any) -> Model:
    """One entry of `handlers:`, a function that custom jobs may call. Raises ConfigurationError."""
    place = document.place("handlers", index)
    module, _, function = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not all(part.isidentifier() for part in (*module.split("."), function)):
        raise place.error(f"must look like package.module:function, not {name!r}")
    return Model(
        name=name,
        features=("Function",),
        specs=(Spec(name=DEFAULT_SPEC, engine="custom", url=""),),
        created_at=int(document.file.stat().st_mtime),
    )
