"""Samplers by the names that people use: a scheduler class of diffusers, and what is set in it."""

from typing import Any

Form = tuple[str, dict[str, Any]]
MULTISTEP, SINGLESTEP = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
KARRAS, EXPONENTIAL = {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}
SDE = {"algorithm_type": "sde-dpmsolver++"}
SAMPLERS: dict[str, Form] = {
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler Karras": ("EulerDiscreteScheduler", KARRAS),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "LMS Karras": ("LMSDiscreteScheduler", KARRAS),
    "DPM2": ("KDPM2DiscreteScheduler", {}),
    "DPM2 Karras": ("KDPM2DiscreteScheduler", KARRAS),
    "DPM2 a": ("KDPM2AncestralDiscreteScheduler", {}),
    "DPM2 a Karras": ("KDPM2AncestralDiscreteScheduler", KARRAS),
    "DPM++ 2M": (MULTISTEP, {}),
    "DPM++ 2M Karras": (MULTISTEP, KARRAS),
    "DPM++ 2M Exponential": (MULTISTEP, EXPONENTIAL),
    "DPM++ 2M SDE": (MULTISTEP, SDE),
    "DPM++ 2M SDE Karras": (MULTISTEP, SDE | KARRAS),
    "DPM++ 3M SDE": (MULTISTEP, SDE | {"solver_order": 3}),
    "DPM++ 2S": (SINGLESTEP, {}),
    "DPM++ 2S Karras": (SINGLESTEP, KARRAS),
    "DPM++ SDE": (SINGLESTEP, SDE),
    "DPM++ SDE Karras": (SINGLESTEP, SDE | KARRAS),
    "DDIM": ("DDIMScheduler", {}),
    "DDPM": ("DDPMScheduler", {}),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True}),
    "PLMS": ("PNDMScheduler", {"skip_prk_steps": True}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "UniPC Karras": ("UniPCMultistepScheduler", KARRAS),
    "DEIS": ("DEISMultistepScheduler", {}),
    "LCM": ("LCMScheduler", {}),
    "TCD": ("TCDScheduler", {}),
}
"""Names as A1111, Forge and ComfyUI write them."""
CLASS_ENDS = "Scheduler"
"""How classes of diffusers end, which may be named too."""


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())


_BY_PLAIN = {_plain(name): name for name in SAMPLERS}


def sampler_named(name: str) -> str | None:
    """The sampler's name as it is written here, or a class of diffusers; None for neither."""
    found = _BY_PLAIN.get(_plain(name))
    if found is None and name.isidentifier() and name.endswith(CLASS_ENDS):
        return name
    return found


def known_samplers() -> str:
    """For people."""
    return ", ".join(SAMPLERS)
