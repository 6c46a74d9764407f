"""What is told of the future: positions, etas, depths, and when a model is called impossible."""

from typing import Any

import msgspec
import pytest

from stoker.schemas.catalog import Spec
from stoker.schemas.fleet import Condition, ModelReplicas, Replica, SpecReplicas
from stoker.schemas.job_events import Downloading, Loading, Provisioning, Queued
from stoker.services.scheduler.fleet.lane import Held
from stoker.services.scheduler.forecast import (
    DEPTH_ANYWAY_S,
    DEPTH_EVERY_S,
    DEPTHS_AT_A_TIME,
    NOTIFIED_JOBS,
    NOTIFY_EVERY_S,
    QUEUE_LIMIT,
    Forecast,
)
from stoker.services.scheduler.placing.possibility import AWAY_GRACE_S, STARTING_GRACE_S
from stoker.services.scheduler.protocol import commands
from tests.unit.scheduler.place import MB, NOW, Place, model, resident, spec


class Seen(Place):
    """A place and its forecast."""

    def __init__(self, *specs: Spec) -> None:
        super().__init__(model("a", *specs))
        self.dispatcher.term = 1  # the first leader: nobody was there before it
        self.forecast = Forecast(self.dispatcher, NOW)

    def depths(self, now: float) -> dict[str, Any]:
        found = self.forecast.depths(now)
        return {c.depth.model: c.depth for c in found if isinstance(c, commands.PublishDepth)}

    def hold(self, worker: str, job: str, run_s: float, of: str = "a") -> None:
        self.fleet.hold(self.fleet.workers[worker], Held(job, of, "default", of, 1, NOW, run_s))

    def hopeless(self, now: float) -> list[tuple[str, str]]:
        return [(record.id, reason) for record, reason in self.forecast.hopeless(now)]


def launched(*replicas: tuple[str, str, float], condition: str = "", **start_s: float | None) -> ModelReplicas:
    """replicas: id-and-spec, phase, when; start_s: by spec."""
    why = Condition(condition, "m", NOW) if condition else None
    return ModelReplicas(
        model="a",
        specs=tuple(SpecReplicas(name, 1, 0, start_s=known, condition=why) for name, known in start_s.items()),
        updated_at=NOW,
        replicas=tuple(Replica(f"r-{of}", of, "p", "l", phase, at) for of, phase, at in replicas),  # type: ignore[arg-type]
    )


# Etas ---------------------------------------------------------------------------------------------


def test_without_replicas_and_launches_nothing_is_known() -> None:
    seen = Seen()
    assert seen.forecast.etas_s("a", 0, NOW)[0] is None
    seen.forecast.replicas_changed("a", launched(gpu=None))
    assert seen.forecast.etas_s("a", 0, NOW)[0] is None


def planned(slots: int = 1, runs_s: float = 2.0) -> Seen:
    """A worker that runs a job for 2 s more, and three jobs of 4 s that wait for it."""
    seen = Seen()
    seen.estimates.learn_run("a", "default", 256.0, 4.0)
    worker = seen.worker("w", resident(), slots=slots)
    if runs_s:
        seen.hold("w", "runs", runs_s)
    for number in range(3):
        seen.job(f"j{number}", wants_events=True)
    seen.dispatcher.plan.put(worker, "a", spec(), 3)
    return seen


def test_the_eta_is_the_turn_in_the_plan() -> None:
    etas = [planned().forecast.etas_s("a", place, NOW)[0] for place in range(3)]
    assert etas == [2.0, 6.0, 10.0]
    assert [planned(slots=2).forecast.etas_s("a", place, NOW)[0] for place in range(2)] == [1.0, 3.0]


def test_the_lane_is_shared_with_what_else_is_planned_there() -> None:
    seen = planned()
    worker = seen.worker("w", resident(), resident("i"), lane="device", slots=1)
    seen.dispatcher.plan.drop_worker("w")
    seen.job("other", "b")
    seen.dispatcher.plan.put(worker, "a", spec(), 3)
    seen.dispatcher.plan.put(worker, "b", spec(), 3)
    assert seen.forecast.etas_s("a", 1, NOW)[0] == pytest.approx(8.0), (
        "half of the lane's jobs are of another model"
    )


def test_a_load_that_is_under_way_is_waited_for() -> None:
    seen = planned(runs_s=0.0)
    seen.dispatcher.plan.drop_worker("w")
    seen.estimates.learn_load("a", "default", "warm", 10.0)
    other = seen.worker("other", resident(tier="warm"), slots=1)
    seen.dispatcher.plan.put(other, "a", spec(), 3)
    seen.fleet.order_load(other, "a", spec(), NOW - 4)
    assert seen.forecast.etas_s("a", 0, NOW)[0] == 6.0


def test_two_workers_give_out_jobs_side_by_side() -> None:
    seen = planned()
    second = seen.worker("second", resident(), slots=1)
    seen.hold("second", "runs too", 3.0)
    seen.dispatcher.plan.put(second, "a", spec(), 3)
    assert [seen.forecast.etas_s("a", place, NOW)[0] for place in range(2)] == [2.0, 3.0]


def test_where_nothing_is_planned_a_replica_with_a_free_slot_takes_the_job_at_once() -> None:
    seen = Seen()
    seen.worker("w1", resident(), slots=2)
    assert seen.forecast.etas_s("a", 0, NOW)[0] == 0.0
    seen.hold("w1", "j1", 3.0)
    assert seen.forecast.etas_s("a", 0, NOW)[0] == 0.0


def test_a_worker_without_its_engine_breaks_nothing() -> None:
    seen = planned()
    worker = seen.fleet.workers["w"]
    worker.facts = msgspec.structs.replace(worker.facts, engines={})
    assert seen.forecast.etas_s("a", 1, NOW)[0] is not None


@pytest.mark.parametrize(
    ("record", "eta_s"),
    [
        (launched(gpu=30.0, cpu=20.0), 20.0),
        (launched(("gpu", "launching", NOW - 10), gpu=30.0, cpu=5.0), 20.0),
        (launched(("gpu", "starting", NOW - 10), ("cpu", "starting", NOW - 12), gpu=30.0, cpu=20.0), 8.0),
        (launched(("gpu", "starting", NOW - 99), gpu=30.0), 0.0),
        (launched(("gpu", "draining", NOW - 10), gpu=30.0), 30.0),
        (launched(("gpu", "starting", NOW - 10), gpu=None, cpu=20.0), 20.0),
    ],
)
def test_the_eta_of_a_launch_is_when_the_first_replica_is_ready(record: ModelReplicas, eta_s: float) -> None:
    seen = Seen()
    seen.forecast.replicas_changed("a", record)
    assert seen.forecast.etas_s("a", 3, NOW)[0] == eta_s


def test_a_record_that_is_gone_is_forgotten() -> None:
    seen = Seen()
    seen.forecast.replicas_changed("a", launched(gpu=30.0))
    seen.forecast.replicas_changed("a", None)
    seen.forecast.replicas_changed("never there", None)
    assert seen.forecast.etas_s("a", 0, NOW)[0] is None


# Positions ----------------------------------------------------------------------------------------


def told(found: list[commands.Command]) -> list[tuple[str, object]]:
    return [(command.job.id, command.event) for command in found if isinstance(command, commands.Notify)]


def test_a_waiting_job_is_told_its_place_and_eta() -> None:
    seen = planned()
    record = seen.ledger.records["j2"]
    assert told(seen.forecast.position(record, 2, NOW)) == [
        ("j2", Queued(position=2, eta_s=10.0, eta_p90_s=20.0))
    ]


def test_a_job_that_waits_is_shown_with_position_and_etas() -> None:
    seen = planned()
    view = seen.forecast.view("j2", NOW)
    assert view is not None and (view.position, view.eta_s, view.eta_p90_s) == (2, 10.0, 20.0)
    runs = seen.forecast.view("runs", NOW)
    assert runs is None or runs.eta_s is None
    assert seen.forecast.view("nobody", NOW) is None


def test_etas_are_corrected_by_how_long_waits_were_that_were_predicted_alike() -> None:
    seen = planned()
    record = seen.ledger.records["j2"]
    for _ in range(30):
        record.told = None
        seen.forecast.position(record, 2, NOW)
        seen.forecast.began(record, NOW + 20.5)
    assert seen.forecast.etas_s("a", 2, NOW) == (20.5, 20.5)


def test_who_waits_for_a_load_is_told_how_far_it_is() -> None:
    seen = planned(runs_s=0.0)
    seen.dispatcher.plan.drop_worker("w")
    loading = seen.worker("other", resident(tier="warm"))
    seen.dispatcher.plan.put(loading, "a", spec(), 3)
    seen.fleet.order_load(loading, "a", spec(), NOW)
    events = [event for _, event in told(seen.forecast.positions(seen.ledger.waiting_queues(), NOW + 1))]
    assert events[1::2] == [Loading(tier="warm")] * 3
    loading.residents["a"] = msgspec.structs.replace(resident(tier="loading"), percent=40.0)
    events = [event for _, event in told(seen.forecast.positions(seen.ledger.waiting_queues(), NOW + 2))]
    assert events[1::2] == [Downloading(percent=40.0)] * 3


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (None, "no replica is ready"),
        (launched(gpu=None), "no replica is ready"),
        (
            launched(("gpu", "starting", NOW), ("cpu", "launching", NOW)),
            "no replica is ready; starting: cpu, gpu",
        ),
        (launched(("gpu", "draining", NOW)), "no replica is ready"),
        (launched(condition="OutOfStock", gpu=None), "no replica is ready (gpu: OutOfStock)"),
        (launched(condition="Crash", gpu=None, cpu=None), "no replica is ready (gpu: Crash; cpu: Crash)"),
    ],
)
def test_who_waits_for_a_launched_model_is_told_what_comes(record: ModelReplicas | None, reason: str) -> None:
    seen = Seen(spec("gpu", launcher="docker"))
    seen.forecast.replicas_changed("a", record)
    [_, (job, event)] = told(seen.forecast.position(seen.job(), 0, NOW))
    assert isinstance(event, Provisioning)
    assert (job, event.reason, event.eta_s) == ("j", reason, None)
    assert seen.forecast.waiting_for("a") == reason


def test_who_waits_is_told_the_spec_that_will_be_ready_first_since_when_and_how_long_it_takes() -> None:
    seen = Seen(spec("gpu", launcher="docker"), spec("cpu", launcher="docker"))
    record = launched(("gpu", "starting", NOW - 50), ("cpu", "launching", NOW), gpu=60.0, cpu=5.0)
    specs = [msgspec.structs.replace(one, slow_start_s=2 * (one.start_s or 0)) for one in record.specs]
    seen.forecast.replicas_changed("a", msgspec.structs.replace(record, specs=tuple(specs)))
    [_, (_, event)] = told(seen.forecast.position(seen.job(), 0, NOW))
    assert isinstance(event, Provisioning)
    assert (event.spec, event.since, event.start_p50_s, event.start_p90_s) == ("cpu", NOW, 5.0, 10.0)
    assert event.eta_s == 5.0
    [_, (_, later)] = told(seen.forecast.position(seen.job("k"), 0, NOW + 20))
    assert (later.spec, later.since) == ("cpu", NOW), "though it is late"


def test_a_job_says_what_it_waits_for() -> None:
    seen = Seen()
    seen.job()
    assert seen.forecast.view("j", NOW).waiting_for == "a worker"  # type: ignore[union-attr]
    seen.worker("small", memory_total_bytes=50 * MB)
    seen.hopeless(NOW)
    assert "50 MB" in seen.forecast.view("j", NOW).waiting_for  # type: ignore[union-attr]
    seen.worker("large")
    seen.hopeless(NOW + 1)
    assert seen.forecast.view("j", NOW + 1).waiting_for == ""  # type: ignore[union-attr]


def test_nobody_is_told_of_a_launch_where_a_replica_is_there_or_nobody_launches() -> None:
    here = Seen(spec("default", launcher="docker"))
    here.worker("w", resident())
    assert [type(event) for _, event in told(here.forecast.position(here.job(), 0, NOW))] == [Queued]
    nobody = Seen()
    assert [type(event) for _, event in told(nobody.forecast.position(nobody.job(), 0, NOW))] == [Queued]


def test_places_are_told_once_in_a_while_to_those_who_watch() -> None:
    seen = Seen()
    for number in range(3):
        seen.job(f"j{number}", wants_events=number != 1)
    queues = seen.ledger.waiting_queues()
    assert seen.forecast.positions(queues, NOW + NOTIFY_EVERY_S - 0.01) == []
    found = told(seen.forecast.positions(queues, NOW + NOTIFY_EVERY_S))
    assert found == [("j0", Queued(position=0)), ("j2", Queued(position=2))]
    assert seen.forecast.positions(queues, NOW + NOTIFY_EVERY_S + 0.5) == []
    assert len(seen.forecast.positions(queues, NOW + 2 * NOTIFY_EVERY_S)) == 2


def test_only_the_first_of_a_long_queue_are_told_every_time() -> None:
    seen = Seen()
    for number in range(NOTIFIED_JOBS + 5):
        seen.job(f"j{number}", wants_events=True)
    found = told(seen.forecast.positions(seen.ledger.waiting_queues(), NOW + 1))
    assert len(found) == NOTIFIED_JOBS
    assert found[-1] == (f"j{NOTIFIED_JOBS - 1}", Queued(position=NOTIFIED_JOBS - 1))


# Depths -------------------------------------------------------------------------------------------


def test_a_queue_is_published_when_it_changed_but_not_too_often_and_anyway_every_second() -> None:
    seen = Seen()
    assert seen.depths(NOW).keys() == {"a"}
    assert seen.depths(NOW + DEPTH_ANYWAY_S - 0.01) == {}
    seen.job()
    assert seen.depths(NOW + DEPTH_ANYWAY_S - 0.005)["a"].queued == 1
    queue = seen.ledger.queue("a")
    assert (queue.is_changed, queue.published_at) == (False, NOW + DEPTH_ANYWAY_S - 0.005)
    queue.is_changed = True
    assert seen.depths(queue.published_at + DEPTH_EVERY_S - 0.01) == {}
    assert seen.depths(queue.published_at + DEPTH_EVERY_S + 0.001).keys() == {"a"}
    assert seen.depths(queue.published_at + DEPTH_ANYWAY_S + 0.001).keys() == {"a"}


def test_a_depth_says_what_a_job_that_arrives_now_has_to_expect() -> None:
    seen = planned()
    seen.estimates.learn_run("a", "default", 1.0, 1.5)
    depth = seen.depths(NOW)["a"]
    assert (depth.queued, depth.eta_s, depth.limit) == (3, 14.0, QUEUE_LIMIT)
    assert depth.best_s == pytest.approx(4.0 / 256), "the shortest of the last runs"
    assert depth.impossible == ""


def test_depths_that_are_only_due_are_told_some_at_a_time() -> None:
    seen = Seen()
    for number in range(3 * DEPTHS_AT_A_TIME):
        seen.dispatcher.set(f"m{number}", model(f"m{number}"))
    told_at = [len(seen.depths(NOW + 0.01 * turn)) for turn in range(3)]
    assert told_at[0] == 3 * DEPTHS_AT_A_TIME + 1, "all are new"
    assert [len(seen.depths(NOW + 2 + 0.01 * turn)) for turn in range(2)] == [DEPTHS_AT_A_TIME] * 2


def test_queues_of_models_that_are_gone_are_published_while_they_are_there() -> None:
    seen = Seen()
    seen.job(of="gone")
    depths = seen.depths(NOW)
    assert list(depths) == ["a", "gone"]
    assert (depths["gone"].queued, depths["gone"].best_s) == (1, None)


# Impossible models --------------------------------------------------------------------------------


def test_a_model_that_never_was_possible_is_impossible_at_once_and_its_waiting_jobs_end() -> None:
    seen = Seen()
    seen.job()
    assert seen.hopeless(NOW) == [], "no worker is known yet"
    seen.worker("small", memory_total_bytes=50 * MB)
    [(job, reason)] = seen.hopeless(NOW)
    assert job == "j" and "50 MB" in reason
    assert seen.depths(NOW)["a"].impossible == reason


def test_while_a_worker_starts_that_may_have_the_engine_nothing_is_called_impossible_for_a_while() -> None:
    seen = Seen()
    seen.job()
    seen.worker("small", memory_total_bytes=50 * MB)
    seen.worker("new", slots=0)
    assert seen.hopeless(NOW) == []
    assert seen.depths(NOW)["a"].impossible == ""
    assert seen.hopeless(NOW + STARTING_GRACE_S) == []
    [(job, reason)] = seen.hopeless(NOW + STARTING_GRACE_S + 0.01)
    assert job == "j" and "50 MB" in reason, "one that never tells is not waited for"
    assert "50 MB" in seen.depths(NOW + STARTING_GRACE_S + 0.02)["a"].impossible


def test_a_worker_that_has_started_makes_it_possible_or_certain() -> None:
    seen = Seen()
    seen.job()
    seen.worker("new", slots=0)
    assert seen.hopeless(NOW) == []
    seen.worker("new", memory_total_bytes=50 * MB)
    assert len(seen.hopeless(NOW + 1)) == 1
    seen.worker("other")
    assert seen.hopeless(NOW + 2) == []


def test_a_model_that_was_possible_is_impossible_only_when_that_lasts() -> None:
    seen = Seen()
    seen.worker("large")
    seen.worker("small", memory_total_bytes=50 * MB)
    assert seen.hopeless(NOW) == []
    seen.fleet.remove("large")
    seen.job()
    assert seen.hopeless(NOW + 1) == []
    assert seen.hopeless(NOW + 1 + AWAY_GRACE_S) == []
    assert [job for job, _ in seen.hopeless(NOW + 1.01 + AWAY_GRACE_S)] == ["j"]


def test_a_model_that_is_possible_again_starts_a_new_grace() -> None:
    seen = Seen()
    seen.worker("large")
    seen.worker("small", memory_total_bytes=50 * MB)
    seen.hopeless(NOW)
    seen.fleet.remove("large")
    seen.hopeless(NOW + 1)
    seen.worker("large")
    seen.hopeless(NOW + 5)
    seen.fleet.remove("large")
    seen.job()
    seen.hopeless(NOW + 6)
    assert seen.hopeless(NOW + 2 + AWAY_GRACE_S) == []
    assert len(seen.hopeless(NOW + 7 + AWAY_GRACE_S)) == 1


def test_a_change_of_what_is_impossible_is_published_at_the_next_turn() -> None:
    seen = Seen()
    seen.worker("small", memory_total_bytes=50 * MB)
    seen.depths(NOW)
    seen.hopeless(NOW)
    assert "50 MB" in seen.depths(NOW + 0.1)["a"].impossible
    seen.hopeless(NOW + 0.2)
    assert seen.depths(NOW + 0.3) == {}, "nothing new"
    seen.worker("large")
    seen.hopeless(NOW + 0.4)
    assert seen.depths(NOW + 0.5)["a"].impossible == ""


def test_a_model_that_left_the_catalog_and_is_back_is_judged_anew() -> None:
    seen = Seen()
    seen.worker("large")
    seen.hopeless(NOW)
    seen.forecast.possibility.forget("a")
    seen.forecast.possibility.forget("never there")
    seen.worker("small", memory_total_bytes=50 * MB)
    seen.fleet.remove("large")
    seen.job()
    assert len(seen.hopeless(NOW + 1)) == 1, "no grace: it is another model"


def test_a_model_that_needs_more_than_before_is_judged_anew() -> None:
    seen = Seen()
    seen.worker("w")
    assert seen.hopeless(NOW) == []
    seen.dispatcher.set("a", model("a", msgspec.structs.replace(spec(), memory_bytes=10**12)))
    seen.job()
    assert len(seen.hopeless(NOW + 1)) == 1


def test_a_later_leader_waits_for_workers_to_tell_it_of_themselves() -> None:
    seen = Seen()
    seen.dispatcher.term = 2
    seen.job()
    seen.worker("small", memory_total_bytes=50 * MB)
    assert seen.hopeless(NOW + STARTING_GRACE_S) == []
    assert len(seen.hopeless(NOW + STARTING_GRACE_S + 0.1)) == 1


# Models that nothing serves at this instant -------------------------------------------------------------


def unserved(seen: Seen, now: float) -> list[tuple[str, str, float]]:
    return [(one.record.id, one.reason, one.retry_after_s) for one in seen.forecast.unserved(now)]


def waited(seen: Seen, job: str, patience_s: float | None, since: float = NOW) -> None:
    """A job whose client waits for it on an open connection, or not."""
    record = seen.ledger.records[job]
    record.job = msgspec.structs.replace(record.job, unserved_timeout_s=patience_s, created_at=since)


def test_a_client_is_told_when_no_spec_of_its_model_comes_up() -> None:
    seen = Seen(spec("gpu", launcher="l"))
    seen.job("patient")
    seen.job("waited")
    waited(seen, "waited", 30.0)
    seen.forecast.replicas_changed("a", launched(("gpu", "starting", NOW), gpu=None))
    assert unserved(seen, NOW) == []
    down = msgspec.structs.replace(Condition("OutOfStock", "none left", NOW), retry_at=NOW + 45.0)
    record = launched(gpu=None)
    only = msgspec.structs.replace(record.specs[0], condition=down)
    seen.forecast.replicas_changed("a", msgspec.structs.replace(record, specs=(only,)))
    assert unserved(seen, NOW + 1) == []
    assert unserved(seen, NOW + 30.9) == []
    [(job, reason, retry_after_s)] = unserved(seen, NOW + 31.5)
    assert (job, retry_after_s) == ("waited", 14)
    assert reason == "no replica of a comes up (gpu: OutOfStock, none left)"


def test_while_one_of_two_specs_may_come_up_nobody_is_told_anything() -> None:
    seen = Seen(spec("gpu", launcher="l"), spec("cpu", launcher="l"))
    seen.job()
    waited(seen, "j", 1.0)
    both = launched(gpu=None, cpu=None)
    down = tuple(
        msgspec.structs.replace(one, condition=Condition("LoadFailed", "no", NOW)) if one.spec == "gpu" else one
        for one in both.specs
    )
    seen.forecast.replicas_changed("a", msgspec.structs.replace(both, specs=down))
    assert unserved(seen, NOW) == unserved(seen, NOW + 100) == []


def test_a_client_is_told_when_the_only_worker_that_could_run_it_is_away_and_waits_again_once_it_is_back() -> (
    None
):
    seen = Seen()
    seen.worker("large")
    seen.worker("small", memory_total_bytes=50 * MB)
    assert seen.hopeless(NOW) == []
    seen.fleet.remove("large")
    seen.job()
    waited(seen, "j", 30.0)
    assert seen.hopeless(NOW + 1) == []
    assert unserved(seen, NOW + 1) == []
    [(job, reason, retry_after_s)] = unserved(seen, NOW + 31)
    assert (job, retry_after_s) == ("j", 5) and "at this moment" in reason and "50 MB" in reason
    seen.worker("large")
    assert seen.hopeless(NOW + 32) == unserved(seen, NOW + 32) == []


def test_without_any_worker_a_client_is_told_after_its_own_wait() -> None:
    seen = Seen()
    seen.job()
    waited(seen, "j", 30.0, since=NOW + 20)
    assert unserved(seen, NOW) == unserved(seen, NOW + 49) == []
    [(_, reason, _)] = unserved(seen, NOW + 50)
    assert reason == "no worker is there at this moment that could run a"


def test_where_a_replica_is_hot_nobody_is_told_anything() -> None:
    seen = Seen()
    seen.worker("w", resident("a"))
    seen.job()
    waited(seen, "j", 0.0)
    assert unserved(seen, NOW) == []
