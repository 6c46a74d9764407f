"""What can be asked for: models, the specs that serve them, and their adapters.

The catalog lies in the KV bucket `stoker_catalog`, one model per key, and is watched by every service.
"""

from typing import Any, Literal

import msgspec

Feature = Literal[
    "TextGeneration", "TextEmbedding", "Reranking", "ImageGeneration", "SuperResolution", "SpeechToText",
    "Function", "Weights",
]  # fmt: skip
"""Weights: a model that functions are given, and that nobody asks for by itself."""

DEFAULT_SPEC = "default"


class Adapter(msgspec.Struct, frozen=True):
    """LoRA weights: asked for as `model_adapter`, or laid over a model's own for good (`Spec.loras`)."""

    name: str
    url: str
    strength: float = 1.0


class Style(msgspec.Struct, frozen=True, omit_defaults=True):
    """A LoRA to be asked for per request at a level: 0 off, 1..N picks levels[N-1], above N the last.

    required_cross_attention_dim: what the model must have, 0 = whatever the LoRA's header says.
    """

    id: str
    lora: str
    levels: tuple[float, ...]
    title: str = ""
    required_cross_attention_dim: int = 0

    def at(self, level: int) -> Adapter | None:
        """The LoRA at a level; None when it is off."""
        if level <= 0:
            return None
        return Adapter(f"style_{self.id}", self.lora, self.levels[min(level, len(self.levels)) - 1])


class Mode(msgspec.Struct, frozen=True):
    """What a modes file says of a model, as it is shown again. model: as written; path: where that is."""

    model: str
    path: str
    default_size: str
    default_steps: int
    default_guidance: float
    metadata: dict[str, Any] = {}


class FunctionModel(msgspec.Struct, frozen=True):
    """A model that a function is given. name: its key (fixed), or the field of the payload that has it."""

    parameter: str
    src: Literal["fixed", "payload"]
    name: str


class Function(msgspec.Struct, frozen=True, omit_defaults=True):
    """A user's function: JSON Schemas of what goes in and comes out, and the keys of the models it may use.

    input_type, output_type: the same as stoker.functions.payload_types describes it; empty from older versions.
    """

    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    description: str = ""
    streams: bool = False
    models: tuple[FunctionModel, ...] = ()
    keys: tuple[str, ...] = ()
    input_type: dict[str, Any] = {}
    output_type: dict[str, Any] = {}


class LoadBalancing(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a model's requests are spread over its ready replicas.

    prefix_char_length: how many characters of a request choose its replica. mean_load_percentage: how far
    above the mean a replica may be before the next is taken. replication: points of a replica on the ring.
    """

    strategy: Literal["LeastLoad", "PrefixHash"] = "LeastLoad"
    mean_load_percentage: int = 125
    replication: int = 256
    prefix_char_length: int = 100


class Gpu(msgspec.Struct, frozen=True, omit_defaults=True):
    """kind: as the launcher calls it, such as nvidia-l4 ("" = any)."""

    count: int
    kind: str = ""


class ResourceProfile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A kind of hardware, and who starts workers on it. cpu (cores), memory_bytes and gpu are for one unit.

    launcher: "static" where somebody else starts them. image: a container's; interpreter: the Python of another
    environment; env: of the worker. datacenters and constraints: where a cluster may place it. inventory: units
    that there are, None where the launcher knows. start_timeout_s: the longest wait for a worker to be ready.
    price_per_hour: of one unit, in any currency; 0 = it is not counted.
    """

    name: str
    launcher: str = "static"
    cpu: float = 0.0
    memory_bytes: int = 0
    gpu: Gpu | None = None
    image: str = ""
    interpreter: str = ""
    env: dict[str, str] = {}
    datacenters: tuple[str, ...] = ()
    constraints: dict[str, str] = {}
    inventory: int | None = None
    start_timeout_s: float = 600.0
    price_per_hour: float = 0.0


class SpecFile(msgspec.Struct, frozen=True):
    """A text file for an engine's own server. path: what its args and env call it, absolute."""

    path: str
    content: str


DEFAULT_TARGET_REQUESTS = 100
DEFAULT_WAITING_COST = 10.0


class Spec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One way to run a model: an engine, its weights, and the hardware for it.

    size_bytes: size of the weights where it is known without loading; memory_bytes: what they take when
    loaded (0: size x 1.2). profile: the kind of worker it needs ("" = any that has the engine).
    options: engine settings. loras: laid over the weights for every job.
    slots: jobs at a time on one replica (0: the engine's own number).
    args, env: of the engine's own server, verbatim; files: that these name. profile_count: units of the profile
    that a replica takes.
    stamp: tells weights from others that had the same url before; "" where that is not known.
    launcher: who starts replicas ("" = somebody else). max_replicas: 0 = no limit. target_requests: what one
    replica is meant to hold; 0 makes it a standby. scale_group: specs of one group are launched at once.
    """

    name: str
    engine: str
    url: str
    profile: str = ""
    options: dict[str, Any] = {}
    adapters: tuple[Adapter, ...] = ()
    loras: tuple[Adapter, ...] = ()
    size_bytes: int = 0
    stamp: str = ""
    memory_bytes: int = 0
    slots: int = 0
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    files: tuple[SpecFile, ...] = ()
    profile_count: int = 1
    launcher: str = ""
    min_replicas: int = 0
    max_replicas: int = 0
    target_requests: int = DEFAULT_TARGET_REQUESTS
    scale_down_delay_s: float = 30.0
    scale_group: str = ""

    @property
    def is_standby(self) -> bool:
        """Whether it serves only while no other replica is ready."""
        return self.target_requests == 0


class Model(msgspec.Struct, frozen=True, omit_defaults=True):
    """A name that clients may ask for. defaults: request values used where a request leaves them unset.

    waiting_cost_per_hour: what an hour of one request's waiting is worth, beside the prices of its specs'
    profiles. owner: as lists of models name it; "" = stoker. labels: by which requests may select it.
    """

    name: str
    features: tuple[Feature, ...]
    specs: tuple[Spec, ...]
    defaults: dict[str, Any] = {}
    run_timeout_s: float = 600.0
    waiting_cost_per_hour: float = DEFAULT_WAITING_COST
    created_at: int = 0
    mode: Mode | None = None
    styles: tuple[Style, ...] = ()
    load_balancing: LoadBalancing = LoadBalancing()
    function: Function | None = None
    owner: str = ""
    labels: dict[str, str] = {}

    def adapter_names(self) -> tuple[str, ...]:
        return tuple(sorted({adapter.name for spec in self.specs for adapter in spec.adapters}))


MEMORY_PER_FILE_BYTE = 1.2
"""Estimated memory of loaded weights over their size on disk, until it is measured."""


def memory_needed_bytes(spec: Spec) -> int:
    """What a spec's weights will take in memory: as declared, else estimated from their size."""
    return spec.memory_bytes or int(spec.size_bytes * MEMORY_PER_FILE_BYTE)


RUN_OPTIONS = ("scheduler", "controlnets")
"""Options that belong to a run: models that differ in them share their weights."""


SLOTS_IN_MEMORY = ("llamacpp",)
"""Engines that load weights together with a context for each slot."""


def weights_key(model: str, spec: Spec) -> str:
    """What two specs have in common that can share weights in memory: engine, weights and options."""
    if not spec.url:
        version = spec.options.get("version")
        return f"{model}@{version}" if version else model
    options = {name: value for name, value in spec.options.items() if name not in RUN_OPTIONS}
    slots = spec.slots if spec.engine in SLOTS_IN_MEMORY else 0
    settings = [part for part in (options, spec.args, spec.env, spec.files, slots) if part]
    stamp = f"#{spec.stamp}" if spec.stamp else ""
    return f"{spec.engine}:{spec.url}{stamp}" + (
        f"?{msgspec.json.encode(settings, order='sorted').decode()}" if settings else ""
    )


NEEDS_GPU = "needs_gpu"
"""The option of a spec that must not run on a processor alone."""
NO_GPU = "cpu"
"""How the device of a worker without a GPU begins."""


def fits_device(spec: Spec, device: str) -> bool:
    """Whether a worker's device is what the spec needs."""
    return not spec.options.get(NEEDS_GPU) or not device.startswith(NO_GPU)


def batch_limit(spec: Spec) -> int:
    """How many like jobs an engine may run as one: the option `batch`, else 1."""
    batch = spec.options.get("batch", 1)
    return batch if isinstance(batch, int) and batch > 0 else 1
