"""What a running system is asked, as lines of a trace for simulations."""

import hashlib
import secrets
import sys

import msgspec
from nats.aio.msg import Msg

from stoker.schemas import wire
from stoker.schemas.jobs import Job, work_units
from stoker.simulation.scenario import Ask

TENANT_BYTES = 6


class Tracer:
    """Makes lines of accepted jobs: when, which model, how much work, for which tenant. No prompts.

    Tenants are hashed with a key that is forgotten afterwards: the same within one trace, and nobody's name.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(16)
        self._began_at: float | None = None
        self.count = 0

    def ask_of(self, job: Job) -> Ask:
        """The request that a job came from; times count from the first."""
        if self._began_at is None:
            self._began_at = job.created_at
        tenant = hashlib.blake2b(job.tenant.encode(), key=self._key, digest_size=TENANT_BYTES).hexdigest()
        self.count += 1
        return Ask(
            at=round(max(job.created_at - self._began_at, 0.0), 4),
            model=job.model,
            units=work_units(job.input),
            tenant=tenant if job.tenant else "",
            priority=job.priority,
        )

    def heard(self, message: Msg) -> None:
        """A job was accepted."""
        try:
            job = wire.decode(Job, message.data)
        except wire.UnreadableMessage:
            return  # the scheduler puts it aside, and says so
        sys.stdout.write(msgspec.json.encode(self.ask_of(job)).decode() + "\n")
        sys.stdout.flush()
