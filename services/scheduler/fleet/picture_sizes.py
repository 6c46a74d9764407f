"""How much more work a picture is for its size, as measured. Pure.

Steps and pictures are units of work (schemas.jobs.work_units), and a step of a large picture takes longer than
one of a small picture: how much longer depends on the model, and how large a picture is that states no size is
known to its engine alone. So it is learned. The size that a model was seen to draw first has the factor one,
each other what one of its units took beside one of the first. Until it was drawn, its pixels are taken for it.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from stoker.schemas.jobs import ImageInput, JobInput

SMOOTHING = 0.3
MOST_SIZES = 32
"""Of a model that are known at a time; the one that was drawn longest ago is forgotten."""


def pixels(job_input: JobInput) -> int | None:
    """Of each picture; 0: it states no size; None: nothing is drawn, or by a size that cannot be told."""
    if not isinstance(job_input, ImageInput):
        return None
    return (job_input.width or 0) * (job_input.height or 0)


@dataclass(slots=True)
class _Sizes:
    """first: pixels of the size that has the factor one. s_per_unit: by pixels, above 0; of the first too."""

    first: int
    s_per_unit: OrderedDict[int, float] = field(default_factory=OrderedDict)


class PictureSizes:
    """Factors by model, spec and pixels, above 0. All methods but `forget` are O(1)."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Sizes] = {}

    def factor(self, model: str, spec: str, size: int) -> float:
        """How much more work a unit is for a picture of so many pixels (see `pixels`)."""
        known = self._known.get((model, spec))
        if known is None:
            return 1.0
        measured = known.s_per_unit.get(size)
        if measured is not None:
            return measured / known.s_per_unit[known.first]
        return size / known.first if size and known.first else 1.0

    def learn(self, model: str, spec: str, size: int, s_per_unit: float) -> None:
        """A picture of so many pixels was drawn alone; s_per_unit: what a unit of its work took; 0, where that
        was less than is measured, says nothing.
        """
        if s_per_unit <= 0.0:
            return
        known = self._known.setdefault((model, spec), _Sizes(size))
        before = known.s_per_unit.pop(size, s_per_unit)
        known.s_per_unit[size] = before + SMOOTHING * (s_per_unit - before)
        if len(known.s_per_unit) > MOST_SIZES:
            del known.s_per_unit[next(one for one in known.s_per_unit if one != known.first)]

    def forget(self, model: str) -> None:
        """A model is gone."""
        self._known = {key: known for key, known in self._known.items() if key[0] != model}
