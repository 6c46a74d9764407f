"""Models and jobs of the simulated world, and of tests of the core alone."""

from stoker.schemas.catalog import Adapter, Model, Spec
from stoker.schemas.jobs import CompletionInput, Job
from stoker.services.scheduler.fleet.worker import Worker
from tests.unit.scheduler.workers import MB


def lane_loads(worker: Worker) -> dict[str, int]:
    """How many jobs each lane has."""
    return {name: lane.jobs for name, lane in worker.lanes.items()}


def make_model(
    name: str, engine: str = "text", memory_mb: int = 100, slots: int = 0, adapters: tuple[str, ...] = ()
) -> Model:
    spec = Spec(
        name="default",
        engine=engine,
        url="file:///x",
        memory_bytes=memory_mb * MB,
        slots=slots,
        adapters=tuple(Adapter(adapter, "file:///a") for adapter in adapters),
    )
    return Model(name=name, features=("TextGeneration",), specs=(spec,))


def make_job(
    name: str,
    model: str,
    now: float,
    priority: int = 0,
    admission_timeout_s: float = 1e9,
    adapter: str = "",
) -> Job:
    return Job(
        id=name,
        model=model,
        input=CompletionInput("x"),
        gateway="gw",
        created_at=now,
        priority=priority,
        admission_timeout_s=admission_timeout_s,
        adapter=adapter,
    )
