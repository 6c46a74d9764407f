"""A lane's work, known without a look at each job: the same as if each were looked at, whatever comes and goes."""

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stoker.services.scheduler.fleet.lane import MOST_PASSED, Held, Lane

SECONDS = st.floats(0, 1e4).map(lambda seconds: round(seconds, 3))


def held(job: str, since: float = 0.0, run_s: float = 0.0, *, is_ahead: bool = False) -> Held:
    return Held(job, "m", "s", "m", 1, since, run_s, is_ahead=is_ahead)


def looked_at(jobs: dict[str, Held], now: float) -> float:
    """The sum that the lane keeps, from each of its jobs."""
    return sum(one.run_s if one.is_ahead else max(one.run_s - (now - one.since), 0.0) for one in jobs.values())


class LaneMachine(RuleBasedStateMachine):
    """Jobs enter, begin and leave in any order while time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.lane = Lane()
        self.jobs: dict[str, Held] = {}
        self.now = 1.7e9
        self.entered = 0

    @rule(run_s=SECONDS, is_ahead=st.booleans(), again=st.booleans())
    def enter(self, run_s: float, is_ahead: bool, again: bool) -> None:
        """One that was here before may come again."""
        self.entered += not again
        name = f"job {self.entered}"
        if name not in self.jobs:
            self.jobs[name] = held(name, self.now, run_s, is_ahead=is_ahead)
            self.lane.enter(self.jobs[name])

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.lane.leave(self.jobs.pop(data.draw(st.sampled_from(sorted(self.jobs)))))

    @precondition(lambda self: self.lane.ahead)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.lane.ahead)))
        self.lane.begin(self.jobs[name], self.now)
        assert self.jobs[name].since == self.now

    @rule(seconds=SECONDS)
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def it_is_what_a_look_at_each_job_says(self) -> None:
        assert self.lane.work_s(self.now) == pytest.approx(looked_at(self.jobs, self.now), abs=1e-5)
        assert self.lane.jobs == len(self.jobs)
        assert list(self.lane.ahead) == [name for name, one in self.jobs.items() if one.is_ahead]


TestLane = LaneMachine.TestCase


def test_nothing_is_left_of_jobs_that_have_left() -> None:
    lane = Lane()
    for number in range(1000):
        one = held(f"job {number}", 1.7e9 + number / 7, 0.1 + number / 3, is_ahead=bool(number % 3))
        lane.enter(one)
        lane.leave(one)
    assert (lane.jobs, lane.work_s(1.7e9)) == (0, 0.0)


def test_the_ends_of_jobs_that_left_early_are_not_kept_until_then() -> None:
    lane = Lane()
    for number in range(10_000):
        one = held(f"job {number}", float(number), 1e6)
        lane.enter(one)
        lane.leave(one)
    assert len(lane._by_end) <= MOST_PASSED + 2
