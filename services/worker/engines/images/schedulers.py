"""Schedulers by the names that people use, made for a run from the configuration that a checkpoint came with.

A scheduler belongs to a run and not to the weights: models of one checkpoint that differ in it share them.
"""

from collections.abc import Mapping
from typing import Any

import diffusers
from diffusers import SchedulerMixin

from services.worker.engines.base import EngineError

Form = tuple[str, dict[str, Any]]
MULTISTEP, SINGLESTEP, SDE = (
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DPMSolverSDEScheduler",
)
KARRAS = {"use_karras_sigmas": True}
EXPONENTIAL = {"use_exponential_sigmas": True}
SAMPLERS: dict[str, Form] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler karras": ("EulerDiscreteScheduler", KARRAS),
    "euler a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "lms karras": ("LMSDiscreteScheduler", KARRAS),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2 karras": ("KDPM2DiscreteScheduler", KARRAS),
    "dpm2 a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpm2 a karras": ("KDPM2AncestralDiscreteScheduler", KARRAS),
    "dpm++ 2m": (MULTISTEP, {}),
    "dpm++ 2m karras": (MULTISTEP, KARRAS),
    "dpm++ 2m exponential": (MULTISTEP, EXPONENTIAL),
    "dpm++ 2m sde": (MULTISTEP, {"algorithm_type": "sde-dpmsolver++"}),
    "dpm++ 2m sde karras": (MULTISTEP, {"algorithm_type": "sde-dpmsolver++", **KARRAS}),
    "dpm++ 3m sde": (MULTISTEP, {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}),
    "dpm++ 2s": (SINGLESTEP, {}),
    "dpm++ 2s karras": (SINGLESTEP, KARRAS),
    "dpm++ sde": (SINGLESTEP, {"algorithm_type": "sde-dpmsolver++"}),
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "unipc karras": ("UniPCMultistepScheduler", KARRAS),
    "deis": ("DEISMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
}
"""Names as A1111, Forge and ComfyUI write them, in small letters: diffusers' class, and what is set in it."""
_FLOW = "FlowMatch"


def known_samplers() -> list[str]:
    return sorted(SAMPLERS)


def form_of(name: str) -> Form:
    """The class of a sampler and its settings. Raises EngineError for one that is not known."""
    plain = " ".join(name.lower().replace("_", " ").split())
    if plain in SAMPLERS:
        return SAMPLERS[plain]
    kind = getattr(diffusers, name, None)
    if isinstance(kind, type) and issubclass(kind, SchedulerMixin):
        return name, {}
    known = ", ".join(known_samplers())
    message = f"there is no sampler {name!r}; write one of {known}, or a scheduler class of diffusers"
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
