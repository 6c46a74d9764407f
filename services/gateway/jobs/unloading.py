"""Unloading a model: every worker that has it in memory is told, and says whether it could."""

from functools import partial

import anyio
import msgspec

from stoker.schemas import wire
from stoker.schemas.catalog import Model
from stoker.schemas.workers import Done, ModelCommand
from stoker.services.bus.errors import BusError
from stoker.services.gateway.gateway import Gateway
from stoker.services.process.tasks import together

ASK_TIMEOUT_S = 2.0
MAX_TRIES, RETRY_S = 10, 0.2
"""Of unloading after a request: its worker frees the model a moment after it has told the end."""
IN_MEMORY = ("hot", "parked")


class Unloaded(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker said. reason: why it still has the model; "" where it has not."""

    worker: str
    reason: str = ""


async def unload(gateway: Gateway, model: Model) -> tuple[Unloaded, ...]:
    """Have a model leave the memory of all workers where no job needs it; what each of them said."""
    workers = [
        beat.worker
        for beat in gateway.fleet.live_workers()
        if any(one.model == model.name and one.tier in IN_MEMORY for one in beat.models)
    ]
    told: dict[str, str] = {}
    await together(partial(_ask, gateway, worker, model, told) for worker in workers)
    return tuple(Unloaded(worker, told[worker]) for worker in workers)


async def unload_once_idle(gateway: Gateway, model: Model) -> None:
    """The same after a request of one's own has ended; where others use the model for longer it stays."""
    for _ in range(MAX_TRIES):
        if not any(one.reason for one in await unload(gateway, model)):
            return
        await anyio.sleep(RETRY_S)


async def _ask(gateway: Gateway, worker: str, model: Model, told: dict[str, str]) -> None:
    """Puts into `told` what a worker says."""
    subject = gateway.bus.subjects.worker(worker, "unload")
    try:
        answer = await gateway.bus.ask(subject, ModelCommand(model.name, model.specs[0]), Done, ASK_TIMEOUT_S)
        told[worker] = "" if answer.ok else answer.reason
    except (BusError, wire.UnreadableMessage) as error:
        told[worker] = str(error)
