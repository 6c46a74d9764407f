"""The settings of the worker; nothing heavy is imported for them, so that `--help` is quick."""

from typing import Annotated

from msgspec import Meta

from stoker.services.process.settings import BusSettings
from stoker.services.worker.limits import LIMIT_S, STOP_GRACE_S


class Settings(BusSettings, frozen=True, kw_only=True):
    """A worker: holds models in memory and runs jobs on them."""

    name: Annotated[str, Meta(description="name of the worker; default: host and a random part")] = ""
    profile: Annotated[str, Meta(description="resource profile that this worker is of")] = "cpu"
    spec: Annotated[str, Meta(description="serve only this spec, model/spec")] = ""
    pinned: Annotated[
        bool,
        Meta(description="with --spec: keep its settings as they were at the start"),
    ] = False
    memory: Annotated[str, Meta(description="memory for loaded models, such as 512MB")] = ""
    gpus: Annotated[int, Meta(description="GPUs that one model may span", ge=1)] = 1
    ram: Annotated[str, Meta(description="memory for parked models, such as 2GB; 0 = none")] = "0"
    engines: Annotated[str, Meta(description="engines to offer, separated by commas")] = ""
    functions: Annotated[str, Meta(description="folders of function projects to serve, by commas")] = ""
    handlers: Annotated[str, Meta(description="functions that custom jobs may call, by commas")] = ""
    give_up_s: Annotated[float, Meta(description="end after this long without NATS; 0 = never", ge=0)] = 0.0
    runner_silent_s: Annotated[
        float, Meta(description="end a runner that says nothing for this long; 0 = never", ge=0)
    ] = LIMIT_S
    stop_grace_s: Annotated[
        float, Meta(description="end an engine that goes on this long after it was told to stop", ge=0)
    ] = STOP_GRACE_S
    drain_timeout_s: Annotated[float, Meta(description="longest wait for running jobs", ge=0)] = 120.0
