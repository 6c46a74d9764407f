"""Where a job is: ended and stored, with the scheduler, or nowhere.

"Nowhere" is for ever, so it is said only on evidence, never because time has passed: the service may have been
stopped for a while between two looks. An accepted job is in the stream of jobs until its end is stored. So when
a scheduler that has read that whole stream does not know the job, and after that no end is stored, the job was
not accepted before the question, or its end is no longer kept. A job of which the scheduler says that it has
ended, and whose end is not stored, is about to be stored.
"""

import time
from dataclasses import dataclass

from stoker.schemas.fleet import JobView
from stoker.services.bus.connection import Bus
from stoker.services.bus.streams import RESULT_TTL_S
from stoker.services.gateway.scheduler_queries import Known, NotKnown, Unknown, look_up_job
from stoker.services.records import results
from stoker.services.records.outputs import whole
from stoker.services.records.results import Stored, Unreadable, find_result


@dataclass(frozen=True, slots=True)
class Nowhere:
    """There is no such job. Where it need not be sure: there was none, and it may be accepted just now."""


Place = Stored | Unreadable | Known | Nowhere | Unknown
"""`Known`: the job has not ended."""


async def locate(bus: Bus, job: str, *, must_be_sure: bool = True, is_watched: bool = False) -> Place:
    """Where a job is. Raises nothing. is_watched: its events are wanted from now on.

    What is stored counts more than what the scheduler says: one that takes over may not know of an end yet.
    """
    ended = await _ended(bus, job)
    if ended is not None:
        return ended
    said = await look_up_job(bus, job, must_be_sure=must_be_sure, is_watched=is_watched)
    match said:
        case Known() if said.is_under_way:
            return said
        case Unknown():
            return said
        case NotKnown() if not must_be_sure:
            return Nowhere()
    ended = await _ended(bus, job, for_sure=True)
    if ended is None and isinstance(said, Known) and _is_still_kept(said.view):
        return Unknown("its end is being stored")
    return Nowhere() if ended is None else ended


def _is_still_kept(view: JobView) -> bool:
    """Whether the end of an ended job should be there. A scheduler of the version before says no time."""
    return time.time() - (view.finished_at or view.created_at) < RESULT_TTL_S


async def _ended(bus: Bus, job: str, *, for_sure: bool = False) -> Stored | Unreadable | Unknown | None:
    match await find_result(bus, job, for_sure=for_sure):
        case Stored() as stored:
            ended = await whole(bus, stored)
            return Unknown(ended.reason) if isinstance(ended, results.Unknown) else ended
        case Unreadable() as ended:
            return ended
        case results.Unknown(reason):
            return Unknown(reason)
    return None
