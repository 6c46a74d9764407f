"""The limits of keys, shared by all gateways: each tells the others what it does for a key that has limits.

A gateway may be a moment behind what the others accept. What gets lost on the way (a gateway that dies with
jobs under way) is mended by asking the scheduler which jobs of a key there are, every `RECONCILE_S`. The
counts of the day are asked of the other gateways at the start; when all of them start anew, they begin anew.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from nats.aio.msg import Msg

from stoker.schemas import wire
from stoker.schemas.fleet import JobsQuery
from stoker.schemas.job_events import Completed, TextOutput
from stoker.schemas.jobs import Job
from stoker.schemas.keys import ApiKey
from stoker.schemas.usage import KeyUse
from stoker.services.bus.connection import Bus
from stoker.services.gateway.edge.access import current_key
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.edge.usage import Book
from stoker.services.gateway.scheduler_queries import UNDER_WAY, list_jobs
from stoker.services.process.logs import get_logger
from stoker.services.records.results import Result, read_record, seal_of

log = get_logger("limits")

RECONCILE_S = 10.0
ANSWERS_S = 0.3
MAX_LISTED = 1000


class Limits:
    """Counts, and refuses. key: finds a key by its id."""

    def __init__(self, bus: Bus, gateway: str, key: Callable[[str], ApiKey | None]) -> None:
        self._bus = bus
        self._gateway = gateway
        self._key = key
        self._watched: dict[str, Callable[[], None]] = {}
        self.book = Book()
        self.served = bus.endpoints.of("use")

    # Requests and jobs ----------------------------------------------------------------------------

    def request(self, key: ApiKey) -> Mapping[str, str]:
        """One more request; headers that say what is left. Raises RequestError 429."""
        now = time.time()
        headers = self.book.check_request(key, now)
        if key.requests_per_minute or key.requests_per_day:
            self._tell(KeyUse(key.id, requests=1, gateway=self._gateway), now)
        return headers

    def jobs(self, jobs: Sequence[Job]) -> None:
        """More jobs of the request's key, all of them or none. Raises RequestError 429, 400."""
        key = current_key.get()
        if key is None or not (key.concurrency or key.tokens_per_minute or key.device_seconds_per_day):
            return
        now = time.time()
        are_calls = all(job.parent for job in jobs)
        self.book.check_jobs(key, [job.id for job in jobs], now, are_calls=are_calls)
        for job in jobs:
            self._count(key, job, now)

    def not_made(self, job: Job) -> None:
        """A job that was counted was refused after all."""
        if job.id in self.book.jobs(job.tenant):
            self._tell(KeyUse(job.tenant, ended=job.id, gateway=self._gateway), time.time())
        self._stop_watching(job.id)

    def _count(self, key: ApiKey, job: Job, now: float) -> None:
        if not job.parent:
            self._tell(KeyUse(key.id, began=job.id, gateway=self._gateway), now)
        if job.id not in self._watched:
            ended = self._bus.subjects.ended(job.id, seal_of(self._bus, job))
            self._watched[job.id] = self._bus.listen_now(
                ended, lambda message: self._on_end(key.id, job.id, message)
            )

    def _tell(self, use: KeyUse, now: float) -> None:
        self.book.note(use, now)
        self._bus.tell(self._bus.subjects.use(), use, is_urgent=False)

    def _on_end(self, key: str, job: str, message: Msg) -> None:
        try:
            record = read_record(message.data, message.headers)
        except wire.UnreadableMessage:
            return
        if not isinstance(record, Result):
            return
        self._stop_watching(job)
        event = record.event
        tokens = 0
        if isinstance(event, Completed) and isinstance(event.output, TextOutput):
            tokens = event.output.usage.total_tokens
        used = KeyUse(key, tokens=tokens, device_s=event.timings.run_s, ended=job, gateway=self._gateway)
        self._tell(used, time.time())

    def _stop_watching(self, job: str) -> None:
        stop = self._watched.pop(job, None)
        if stop is not None:
            stop()

    # The other gateways ---------------------------------------------------------------------------

    def on_use(self, message: Msg) -> None:
        """Another gateway has done something, or asks for the counts of the day."""
        if message.reply:
            began_ns = time.perf_counter_ns()
            self._bus.tell(message.reply, self.book.today(time.time()))
            self.served.done(began_ns)
            return
        try:
            use: KeyUse = wire.decode(KeyUse, message.data)
        except wire.UnreadableMessage as error:
            log.warning("message.unreadable", subject=message.subject, error=str(error))
            return
        if use.gateway != self._gateway and self._key(use.key) is not None:
            self.book.note(use, time.time())

    async def keep(self) -> None:
        """Learn the counts of the day, then compare jobs with the scheduler's, until cancelled."""
        answers = await self._bus.ask_all(self._bus.subjects.use(), None, list[KeyUse], ANSWERS_S)
        for use in (use for answer in answers for use in answer):
            self.book.learn_today(use, time.time())
        while True:
            await asyncio.sleep(RECONCILE_S)
            for key in self.book.busy():
                await self._reconcile(key)

    async def _reconcile(self, key: str) -> None:
        asked_at = time.time()
        found: set[str] = set()
        try:
            for status in UNDER_WAY:
                cursor = ""
                while True:
                    page = await list_jobs(self._bus, JobsQuery(status, key, "", MAX_LISTED, cursor))
                    found.update(view.id for view in page.jobs)
                    cursor = page.next_cursor
                    if not cursor:
                        break
        except RequestError:
            return  # nobody leads: in a while
        self.book.reconcile(key, found, time.time(), asked_at)
        for job in self._watched.keys() - self.book.all_jobs():
            self._stop_watching(job)

    def forget(self, key: str) -> None:
        """The key is no longer there."""
        self.book.forget(key)
