"""Large pictures are more work than small ones, by what was measured of each model."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.jobs import CompletionInput, ImageInput, Job
from stoker.schemas.workers import Finished
from stoker.services.scheduler.fleet.estimates import Estimates
from stoker.services.scheduler.fleet.picture_sizes import MOST_SIZES, PictureSizes
from stoker.services.scheduler.placing.batching import learn
from tests.unit.scheduler.place import NOW, Place, model

SMALL, LARGE = 512 * 512, 1024 * 1024
STEP_S = {None: 0.9, 512: 0.25, 768: 0.6, 1024: 1.1}
"""Seconds of a step by the side of a picture, None where it states none."""


def picture(side: int | None, steps: int = 10, n: int = 1) -> ImageInput:
    return ImageInput("a cat", n=n, width=side, height=side, num_inference_steps=steps)


def job(name: str, given: ImageInput | CompletionInput) -> Job:
    return Job(name, "a", given, "gw", NOW)


def test_the_size_that_was_drawn_first_is_the_measure_and_others_are_judged_by_their_pixels() -> None:
    sizes = PictureSizes()
    assert sizes.factor("a", "s", LARGE) == 1.0, "nothing is known"
    sizes.learn("a", "s", SMALL, 0.5)
    assert [sizes.factor("a", "s", size) for size in (SMALL, LARGE, 0)] == [1.0, 4.0, 1.0]
    sizes.learn("a", "s", LARGE, 3.0)
    assert sizes.factor("a", "s", LARGE) == 6.0, "as measured"
    assert sizes.factor("a", "other", LARGE) == sizes.factor("b", "s", LARGE) == 1.0


def test_a_model_whose_first_picture_stated_no_size_learns_each_size_by_itself() -> None:
    sizes = PictureSizes()
    sizes.learn("a", "s", 0, 1.0)
    assert sizes.factor("a", "s", LARGE) == 1.0, "how large the first was is not known"
    sizes.learn("a", "s", SMALL, 0.25)
    assert sizes.factor("a", "s", SMALL) == 0.25


def test_what_a_size_takes_follows_what_was_drawn_last() -> None:
    sizes = PictureSizes()
    for took_s in (1.0, 2.0):
        sizes.learn("a", "s", SMALL, took_s)
    sizes.learn("a", "s", LARGE, 1.3)
    assert sizes.factor("a", "s", LARGE) == pytest.approx(1.0), "beside 1.3 s of a small one by now"
    sizes.learn("a", "s", LARGE, 2.6)
    assert sizes.factor("a", "s", LARGE) == pytest.approx(1.3)


def test_sizes_are_bounded_and_what_was_drawn_last_stays() -> None:
    sizes = PictureSizes()
    sizes.learn("a", "s", SMALL, 1.0)
    sizes.learn("a", "s", 1, 50.0)
    for size in range(2, MOST_SIZES + 1):
        sizes.learn("a", "s", size, 50.0)
    sizes.learn("a", "s", 1, 50.0)
    sizes.learn("a", "s", MOST_SIZES + 1, 50.0)
    assert sizes.factor("a", "s", 1) == 50.0
    assert sizes.factor("a", "s", 2) == 2 / SMALL, "judged by its pixels again"
    sizes.forget("a")
    assert sizes.factor("a", "s", 1) == 1.0


def test_a_run_that_took_no_time_is_no_measure() -> None:
    sizes = PictureSizes()
    sizes.learn("a", "s", SMALL, 0.0)
    sizes.learn("a", "s", LARGE, 2.0)
    sizes.learn("a", "s", SMALL, 0.0)
    assert sizes.factor("a", "s", SMALL) == 0.25


def test_a_first_picture_that_took_long_says_nothing_of_other_sizes_once_it_is_drawn_as_quickly_as_others() -> (
    None
):
    """Kernels are compiled, files are read: the first picture of a model may take ten times as long."""
    estimates = Estimates()
    estimates.know(model("a"))
    for side, took_s, times in ((1024, 20.0, 1), (512, 0.5, 10), (1024, 2.0, 30)):
        for _ in range(times):
            estimates.learn_job(job("j", picture(side, 20)), "default", 20.0, took_s)
    for side, took_s in ((512, 0.5), (1024, 2.0)):
        units = estimates.units(job("x", picture(side, 20)), "")
        assert estimates.run_s("a", "default", units) == pytest.approx(took_s, rel=0.02)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, 8, 64, 512, 4096]),
            st.sampled_from([0.0, 0.0001, 0.3, 5.0, 9999.0]),
            st.integers(1, 4),
        ),
        max_size=60,
    )
)
def test_whatever_was_measured_predictions_are_finite_and_not_negative(
    runs: list[tuple[int | None, float, int]],
) -> None:
    estimates = Estimates()
    estimates.know(model("a"))
    for side, took_s, batch in runs:
        estimates.learn_job(job("j", picture(side, 1)), "default", 1.0, took_s, batch)
        for asked in (None, 8, 512, 4096):
            units = estimates.units(job("x", picture(asked)), "")
            assert units > 0.0
            predicted_s = estimates.run_s("a", "default", units)
            assert predicted_s >= 0.0 and math.isfinite(predicted_s)


@given(st.lists(st.sampled_from(list(STEP_S)), min_size=1, max_size=60), st.integers(1, 4), st.integers(4, 50))
def test_each_size_is_predicted_as_it_is_whatever_is_mixed(drawn: list[int | None], n: int, steps: int) -> None:
    estimates = Estimates()
    estimates.know(model("a"))
    for number, side in enumerate(drawn):
        units = steps * n
        estimates.learn_job(job(f"j{number}", picture(side, steps, n)), "default", units, STEP_S[side] * units)
    for side in set(drawn):
        units = estimates.units(job("x", picture(side, steps=7)), "")
        assert estimates.run_s("a", "default", units) == pytest.approx(7 * STEP_S[side])


def test_what_was_measured_of_large_pictures_counts_for_those_that_wait() -> None:
    place = Place()
    for side, took_s in ((512, 5.0), (1024, 20.0)):
        record = place.job(f"seen{side}", input=picture(side))
        record.spec = "default"
        finished = Finished(record.id, "a", 1, "completed", run_s=took_s, units=10.0)
        learn(place.estimates, place.dispatcher.models["a"], record, finished)
    waits = {side: place.ledger.run_s(place.job(f"j{side}", input=picture(side))) for side in (512, 1024)}
    assert waits == {512: pytest.approx(5.0), 1024: pytest.approx(20.0)}


def test_texts_have_no_size_and_those_of_a_batch_measure_none() -> None:
    estimates = Estimates()
    estimates.know(model("a"))
    text = job("t", CompletionInput("x", max_tokens=100))
    estimates.learn_job(text, "default", 100.0, 5.0)
    assert estimates.units(text, "default") == 100.0
    estimates.learn_job(job("p", picture(512)), "default", 10.0, 5.0)
    estimates.learn_job(job("q", picture(1024)), "default", 10.0, 999.0, batch=4)
    assert estimates.units(job("r", picture(1024)), "default") == 40.0
