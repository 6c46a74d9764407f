"""The settings of the scheduler; nothing heavy is imported for them, so that `--help` is quick."""

from typing import Annotated

from msgspec import Meta

from stoker.services.process.settings import BusSettings


class Settings(BusSettings, frozen=True, kw_only=True):
    """The scheduler: decides which worker runs each job."""

    record: Annotated[
        str,
        Meta(description="file for a recording of every decision, with prompts; see `stoker replay`"),
    ] = ""
