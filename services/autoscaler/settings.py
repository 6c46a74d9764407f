"""The settings of the autoscaler; nothing heavy is imported for them, so that `--help` is quick."""

from typing import Annotated

from msgspec import Meta

from stoker.services.process.settings import BusSettings


class Settings(BusSettings, frozen=True, kw_only=True):
    """The autoscaler: decides how many replicas of each spec run, and has them launched."""

    cluster: Annotated[str, Meta(description="name under which launchers find our workers again")] = "stoker"
    data: Annotated[str, Meta(description="folder for the logs of workers that are processes")] = ".stoker"
    worker_nats: Annotated[str, Meta(description="NATS URLs of launched workers; default: the same")] = ""
    worker_nats_user: Annotated[str, Meta(description="NATS user of launched workers")] = ""
    worker_nats_password: Annotated[str, Meta(description="its password")] = ""
    record: Annotated[
        str,
        Meta(description="file for a recording of every decision; see `stoker replay`"),
    ] = ""
    stop_replicas: Annotated[bool, Meta(description="stop all launched workers at a clean stop")] = False
