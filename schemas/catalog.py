"""What can be asked for: models, the specs that serve them, and their adapters.

The catalog lies in the KV bucket `stoker_catalog`, one model per key, and is watched by every service.
"""

from typing import Any, Literal

import msgspec

Feature = Literal["TextGeneration", "TextEmbedding", "ImageGeneration"]

DEFAULT_SPEC = "default"


class Adapter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A LoRA adapter of a model; asked for as `model_adapter`."""

    name: str
    url: str
    strength: float = 1.0


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One way to run a model: an engine, its weights, and the hardware for it.

    size_bytes: size of the weights where it is known without loading; memory_bytes: what they take when
    loaded (0: size x 1.2). profile: the kind of worker it needs ("" = any that has the engine).
    options: engine settings. slots: jobs at a time on one replica (0: the engine's own number).
    """

    name: str
    engine: str
    url: str
    profile: str = ""
    options: dict[str, Any] = {}
    adapters: tuple[Adapter, ...] = ()
    size_bytes: int = 0
    memory_bytes: int = 0
    slots: int = 0


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A name that clients may ask for. defaults: request values used where a request leaves them unset."""

    name: str
    features: tuple[Feature, ...]
    specs: tuple[Spec, ...]
    defaults: dict[str, Any] = {}
    run_timeout_s: float = 600.0
    created_at: int = 0

    def adapter_names(self) -> tuple[str, ...]:
        return tuple(sorted({adapter.name for spec in self.specs for adapter in spec.adapters}))


MEMORY_PER_FILE_BYTE = 1.2
"""Estimated memory of loaded weights over their size on disk, until it is measured."""


def memory_needed_bytes(spec: Spec) -> int:
    """What a spec's weights will take in memory: as declared, else estimated from their size."""
    return spec.memory_bytes or int(spec.size_bytes * MEMORY_PER_FILE_BYTE)
