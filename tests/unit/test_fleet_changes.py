"""What somebody who watches the fleet is told: everything once, then what has changed; who is silent at once."""

from types import SimpleNamespace
from typing import Any

from stoker.schemas.catalog import Model, Spec
from stoker.schemas.configuration import ConfigurationState
from stoker.schemas.fleet import QueueDepth
from stoker.schemas.workers import Heartbeat, ResidentModel
from stoker.services.gateway.fleet_view import FORGET_AFTER_S, HEARTBEAT_MISSED_S, WORKER_SILENT_S
from stoker.services.gateway.watching.fleet_changes import Changes, FleetChanges
from tests.unit.test_fleet_view import MODEL, Seen


class Watched:
    """A view, and one who watches it."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.seen.view.model_changed("m", MODEL)
        self.told = FleetChanges()
        self.configuration = ConfigurationState(1, 5.0)

    def take(self) -> Changes | None:
        gateway: Any = SimpleNamespace(fleet=self.seen.view, configuration=lambda: self.configuration)
        return self.told.take(gateway)

    def states(self) -> dict[str, str]:
        changes = self.take()
        return {one.worker: one.state for one in changes.workers} if changes is not None else {}


def test_everything_comes_once_then_nothing_until_something_changes() -> None:
    watched = Watched()
    watched.seen.beat("w", models=(ResidentModel("m", "s", "e", "hot"), ResidentModel("n", "s", "e", "warm")))
    first = watched.take()
    assert first is not None
    [worker] = first.workers
    assert (worker.state, worker.memory, worker.on_disk) == ("live", {"m": "hot"}, 1)
    assert [model.name for model in first.models] == ["m"]
    assert first.configuration == ConfigurationState(1, 5.0)
    assert watched.take() is None
    watched.seen.beat("w", models=(ResidentModel("m", "s", "e", "hot"), ResidentModel("n", "s", "e", "warm")))
    assert watched.take() is None, "a heartbeat with nothing new says nothing"
    watched.seen.beat("w", models=(ResidentModel("m", "s", "e", "parked"),))
    changes = watched.take()
    assert changes is not None
    assert [one.memory for one in changes.workers] == [{"m": "parked"}]
    assert not changes.models
    assert changes.configuration is None


def test_a_worker_that_misses_a_heartbeat_is_silent_then_gone_then_forgotten() -> None:
    watched = Watched()
    watched.seen.beat("w")
    assert watched.states() == {"w": "live"}
    watched.seen.clock.now = HEARTBEAT_MISSED_S
    assert watched.states() == {"w": "silent"}
    watched.seen.clock.now = WORKER_SILENT_S
    assert watched.states() == {"w": "gone"}
    watched.seen.clock.now = FORGET_AFTER_S
    watched.seen.view.forget_silent()
    changes = watched.take()
    assert changes is not None
    assert changes.workers_gone == ("w",)
    watched.seen.beat("w")
    assert watched.states() == {"w": "live"}


def test_a_worker_that_comes_back_is_live_at_once() -> None:
    watched = Watched()
    watched.seen.beat("w")
    watched.take()
    watched.seen.clock.now = HEARTBEAT_MISSED_S
    watched.take()
    watched.seen.beat("w")
    assert watched.states() == {"w": "live"}
    watched.seen.beat("w", is_draining=True)
    assert watched.states() == {"w": "draining"}


def test_queues_models_and_the_configuration_change_by_themselves() -> None:
    watched = Watched()
    watched.take()
    watched.seen.depth("m", 3)
    changes = watched.take()
    assert changes is not None
    assert [model.queue for model in changes.models] == [QueueDepth("m", 3, 0)]
    watched.configuration = ConfigurationState(2, 6.0)
    changes = watched.take()
    assert changes == Changes(configuration=ConfigurationState(2, 6.0))
    watched.seen.view.model_changed("m", None)
    changes = watched.take()
    assert changes == Changes(models_gone=("m",))


def test_why_a_model_could_not_be_loaded_is_cut() -> None:
    watched = Watched()
    watched.seen.beat("w", failed_loads={"m": "x" * 1000})
    changes = watched.take()
    assert changes is not None
    assert len(changes.workers[0].failed["m"]) == 300


def test_nothing_is_said_of_tiers_by_model() -> None:
    watched = Watched()
    watched.seen.view.model_changed("n", Model("n", (), (Spec(name="s", engine="e", url=""),)))
    watched.seen.beat("w", models=tuple(ResidentModel(f"x{i}", "s", "e", "warm") for i in range(200)))
    changes = watched.take()
    assert changes is not None
    assert all(not model.workers for model in changes.models)
    assert changes.workers[0].memory == {}
    assert changes.workers[0].on_disk == 200


def _beat(seen: Seen, **fields: Any) -> Heartbeat:
    seen.beat("w", **fields)
    return seen.view.live_workers()[0]


def test_a_wall_clock_makes_nobody_silent() -> None:
    seen = Seen()
    _beat(seen, rss_bytes=1)
    assert seen.view.silent_workers() == {}
