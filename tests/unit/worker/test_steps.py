"""How long an engine may take to stop, from how long its steps took."""

from hypothesis import given
from hypothesis import strategies as st

from stoker.services.worker.jobs.steps import MAX_WEIGHTS, STEPS_OF_GRACE, StepTimes

SECONDS = st.floats(0, 1e4)


def test_weights_that_made_no_step_have_no_grace_of_their_own() -> None:
    steps = StepTimes()
    steps.note("a", 2.0)
    assert (steps.grace_s("a"), steps.grace_s("b")) == (2.0 * STEPS_OF_GRACE, 0.0)


@given(st.lists(st.tuples(st.sampled_from("abc"), SECONDS)))
def test_the_longest_step_of_the_same_weights_counts(seen: list[tuple[str, float]]) -> None:
    steps = StepTimes()
    for weights, step_s in seen:
        steps.note(weights, step_s)
    for weights in "abc":
        longest = max((step_s for name, step_s in seen if name == weights), default=0.0)
        assert steps.grace_s(weights) == STEPS_OF_GRACE * longest


def test_what_was_not_seen_for_longest_is_forgotten_first() -> None:
    steps = StepTimes()
    for number in range(MAX_WEIGHTS):
        steps.note(str(number), 1.0)
    steps.note("0", 0.5)
    steps.note("new", 1.0)
    assert (steps.grace_s("0"), steps.grace_s("1")) == (STEPS_OF_GRACE, 0.0)
    assert len(steps._longest) == MAX_WEIGHTS
