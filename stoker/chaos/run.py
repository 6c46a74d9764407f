"""One run: the installation, the clients, the faults; then calm, a last look at every job, and the report."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx

from stoker.chaos.faults import Faults
from stoker.chaos.ledger import Ledger
from stoker.chaos.plan import Choice, plan
from stoker.chaos.report import Report, report_of
from stoker.chaos.system import Installation, started
from stoker.chaos.traffic import TIMEOUT, Prompt, Traffic, learn
from stoker.schemas.catalog import Model
from stoker.services.catalog.load import Configuration
from stoker.services.process.tasks import TaskOwner, together

SENTENCES = ("The river", "Once upon a time", "A list of birds:", "Why is the sky blue?")
MAX_TOKENS = 24
LOOK_AT_ONCE = 8
CALM_S = 60.0


class NothingToAsk(RuntimeError):
    """No model of the installation makes text."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a run is to be. seconds, every_s: how long, and the time between faults on average.

    jobs: 0 = no limit. pace_s: how long each client waits before its next request. servers: of NATS.
    """

    seed: int = 1
    seconds: float = 300.0
    every_s: float = 2.0
    at_once: int = 8
    jobs: int = 0
    pace_s: float = 0.0
    servers: int = 1
    choice: Choice = field(default_factory=Choice)


def prompts_of(models: Sequence[Model]) -> list[Prompt]:
    """Requests to every model that makes text. Raises NothingToAsk."""
    names = [model.name for model in models if "TextGeneration" in model.features]
    if not names:
        raise NothingToAsk("no model of the configuration makes text: there is nothing whose answer is known")
    return [
        Prompt(name, sentence, MAX_TOKENS, seed, is_chat)
        for name in names
        for seed, sentence in enumerate(SENTENCES, 1)
        for is_chat in (False, True)
    ]


async def run(
    system: Installation, prompts: list[Prompt], wishes: Wishes, say: Callable[[str], None]
) -> Report:
    """Ask and disturb; the report. Everything that was paused or cut goes on afterwards."""
    say("learning what is answered in quiet …")
    known = await learn(system.gateways[0], prompts)
    began = asyncio.get_running_loop().time()
    ledger = Ledger()
    traffic = Traffic(
        system.gateways, known, ledger, wishes.seed, began, jobs=wishes.jobs, pace_s=wishes.pace_s
    )
    faults = Faults(system, began)
    choice = replace(wishes.choice, cuttable=system.cuttable)
    planned = plan(wishes.seed, wishes.seconds, wishes.every_s, choice)

    async def disturb() -> None:
        await faults.run(planned)
        await asyncio.sleep(max(began + wishes.seconds - asyncio.get_running_loop().time(), 0.0))
        traffic.is_over.set()

    say(f"{wishes.at_once} clients, a fault every {wishes.every_s:g} s, seed {wishes.seed} …")
    if wishes.jobs:
        async with TaskOwner("disturbing") as tasks:
            tasks.start(disturb)
            await traffic.run(wishes.at_once)
    else:
        await together((disturb, lambda: traffic.run(wishes.at_once)))
    say("calm: looking at every job once more …")
    await look_at_all(traffic)
    ledger.crashes = [(round(at - began, 3), what) for at, what in system.crashes if at > began]
    return report_of(wishes.seed, ledger, faults.done)


async def look_at_all(traffic: Traffic) -> None:
    """Every accepted job at every gateway, until each has ended or CALM_S is over."""
    deadline = traffic.now() + CALM_S
    jobs = [
        job
        for job in traffic.ledger.jobs.values()
        if job.accepted_at is not None and _is_named(job.id, traffic)
    ]
    left = iter([(job, gateway) for job in jobs for gateway in traffic.gateways])

    async def looker() -> None:
        async with httpx.AsyncClient(timeout=TIMEOUT) as http:
            for job, gateway in left:
                await traffic.look_until_ended(http, gateway, job, deadline)

    await together([looker] * LOOK_AT_ONCE)


def _is_named(job: str, traffic: Traffic) -> bool:
    """Whether clients know the job by this id: completions have ids that nobody is told."""
    found = traffic.ledger.jobs[job]
    return bool(found.streams or found.missing or any(end.gateway for end in found.ends) or not found.ends)


async def run_own(
    configuration: Configuration, data: Path, wishes: Wishes, say: Callable[[str], None]
) -> Report:
    """A run on an installation of its own. Raises NothingToAsk, CannotStart."""
    prompts = prompts_of(configuration.models)
    say("starting NATS, two schedulers, two gateways and the workers …")
    async with started(configuration, data, wishes.servers) as system:
        return await run(system, prompts, wishes, say)
