"""Where a job is: ended and stored, with the scheduler, or nowhere.

"Nowhere" is for ever, so it is said only on evidence, never because time has passed: the service may have been
stopped for a while between two looks. An accepted job is in the stream of jobs until its end is stored. So when
a scheduler that has read that whole stream does not know the job, and after that no end is stored, the job was
not accepted before the question, or its end is no longer kept.
"""

from dataclasses import dataclass

from services.bus.connection import Bus
from services.gateway.scheduler_queries import Known, Unknown, look_up_job
from services.records import results
from services.records.results import Stored, Unreadable, find_result


@dataclass(frozen=True, slots=True)
class Nowhere:
    """There is no such job. Where it need not be sure: there was none, and it may be accepted just now."""


Place = Stored | Unreadable | Known | Nowhere | Unknown
"""`Known`: the job has not ended."""


async def locate(bus: Bus, job: str, *, must_be_sure: bool = True) -> Place:
    """Where a job is. Raises nothing.

    What is stored counts more than what the scheduler says: one that takes over may not know of an end yet.
    """
    ended = await _ended(bus, job)
    if ended is not None:
        return ended
    view = await look_up_job(bus, job, must_be_sure=must_be_sure)
    match view:
        case Known() if view.is_under_way:
            return view
        case Unknown():
            return view
    ended = await _ended(bus, job, for_sure=True) if must_be_sure else None
    return Nowhere() if ended is None else ended


async def _ended(bus: Bus, job: str, *, for_sure: bool = False) -> Stored | Unreadable | Unknown | None:
    match await find_result(bus, job, for_sure=for_sure):
        case Stored() | Unreadable() as ended:
            return ended
        case results.Unknown(reason):
            return Unknown(reason)
    return None
