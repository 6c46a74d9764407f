"""How long steps of weights take, as runs report them: between steps an engine looks whether it is to stop.
Pure.

A step is what lies between two reports of a run: from its start to the first, between the others, from the last
to the pictures. The longest one of each weights counts.
"""

from dataclasses import dataclass, field

STEPS_OF_GRACE = 3.0
"""An engine that is told to stop may take so many times the longest step seen."""
MAX_WEIGHTS = 1000
"""Of so many weights the times are kept, the latest seen."""


@dataclass(slots=True)
class StepTimes:
    """Seconds, by weights key."""

    _longest: dict[str, float] = field(default_factory=dict)

    def note(self, weights: str, step_s: float) -> None:
        """A step of these weights took so long."""
        self._longest[weights] = max(step_s, self._longest.pop(weights, 0.0))
        if len(self._longest) > MAX_WEIGHTS:
            del self._longest[next(iter(self._longest))]

    def grace_s(self, weights: str) -> float:
        """How long an engine may take to stop; 0 where no step has been seen."""
        return STEPS_OF_GRACE * self._longest.get(weights, 0.0)
