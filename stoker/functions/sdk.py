"""Declaring a function: the decorator, where its models come from, and what it needs."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_TIMEOUT_S = 600.0
MARK = "__stoker_function__"


class Src(Enum):
    """Where a model's key stands. FIXED (or DEPLOYMENT): in the code. PAYLOAD: in a field of the payload."""

    FIXED = "fixed"
    DEPLOYMENT = "fixed"  # noqa: PIE796  the same one, by an older name
    PAYLOAD = "payload"


ModelRefSource = Src


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Inject a model: `ModelRef(Src.FIXED, "key")`, or `ModelRef(Src.PAYLOAD, "field")`.

    Keys are those of `[tool.stoker.models]` (or `[tool.cozy.models]`) in the project's pyproject.toml.
    """

    src: Src
    name: str


@dataclass(frozen=True, slots=True)
class ResourceRequirements:
    """What a function needs.

    gpu: whether it needs one. vram, memory: sizes such as "12GB", of the device and of RAM. cpu: cores.
    libraries: importable names that must be installed. concurrency: calls at a time in one worker.
    timeout_s: the longest run.
    """

    gpu: bool = False
    vram: str = ""
    memory: str = ""
    cpu: float = 0.0
    libraries: tuple[str, ...] = ()
    concurrency: int = 1
    timeout_s: float = DEFAULT_TIMEOUT_S

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"ResourceRequirements: concurrency must be at least 1, not {self.concurrency}")
        if self.timeout_s <= 0:
            raise ValueError(f"ResourceRequirements: timeout_s must be more than 0, not {self.timeout_s:g}")


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the decorator leaves on a function."""

    name: str
    requirements: ResourceRequirements


def worker_function(
    requirements: ResourceRequirements | None = None, *, name: str | None = None
) -> Callable[[F], F]:
    """Make a function callable through Stoker under its name (or `name`).

    Its signature is checked when the project is imported: first an ActionContext, exactly one payload Struct,
    every other parameter `Annotated[T, ModelRef(…)]`; it returns a Struct, or an iterator of Structs, which
    are streamed.
    """
    if callable(requirements):
        raise TypeError("write @worker_function(), with parentheses")

    def mark(function: F) -> F:
        found = requirements if requirements is not None else ResourceRequirements()
        setattr(function, MARK, Declaration(name or function.__name__, found))
        return function

    return mark
