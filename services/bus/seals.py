"""Seals: what lets only those who have a job speak of it.

A seal is a keyed hash of the job's id. It is part of the subjects of the job's events and of its result, so
that nobody can publish there who does not know it. Gateways and the scheduler know the key (the bucket
`stoker_secrets`) and so every seal; a worker is told the seal of each job that it is given, and no other. What
comes without its seal is nobody's.

The key is made with the streams (`stoker install-streams`, `stoker up`). Where there were jobs before, an
upgrade has an hour from then on (as long as results are kept): until it is over, services of the version before
may be there, and new jobs have no seals. For another hour what has none is still believed.
"""

import base64
import hashlib
import hmac
import time
from functools import lru_cache

import msgspec

from stoker.schemas.ranges import Moment

SEAL_BYTES, SECRET_BYTES = 16, 32
KEPT = 32_768
"""Seals that need not be computed again: of the jobs that run now, each of which is in every heartbeat."""


class SealKey(msgspec.Struct, frozen=True):
    """The installation's key. since: when jobs began to have seals, seconds since 1970; 0: they always had."""

    key: bytes
    since: Moment = 0.0


class Seals:
    """The seals of every job, once the key is known; before that, and at a worker, every job has none ("").

    upgrade_s: how long an upgrade may take, and how long results are kept.
    """

    def __init__(self, found: SealKey | None = None, upgrade_s: float = 0.0) -> None:
        self._key = found.key if found is not None else b""
        self._begin_at = found.since + upgrade_s if found is not None and found.since else 0.0
        self._needed_from = self._begin_at + upgrade_s if self._begin_at else 0.0
        self.of = lru_cache(KEPT)(self._of)
        """A job's seal; "" where there are none."""

    @property
    def are_there(self) -> bool:
        """Whether a new job gets one."""
        return bool(self._key) and time.time() >= self._begin_at

    @property
    def may_be_missing(self) -> bool:
        """Whether a job that has no seal may be one of before."""
        return not self._key or time.time() < self._needed_from

    def _of(self, job: str) -> str:
        if not self._key:
            return ""
        return hashlib.blake2b(job.encode(), key=self._key, digest_size=SEAL_BYTES).hexdigest()

    def webhook_secret(self) -> str:
        """What webhooks are signed with unless said otherwise, as the Standard Webhooks have it."""
        made = hashlib.blake2b(b"webhooks", key=self._key, digest_size=SECRET_BYTES).digest()
        return "whsec_" + base64.b64encode(made).decode()

    def holds(self, job: str, seal: str) -> bool:
        """Whether who shows this seal was given the job."""
        if not seal:
            return self.may_be_missing
        if not self._key or not seal.isascii():  # what is not ASCII cannot be compared, and is no seal
            return False
        return hmac.compare_digest(self.of(job), seal)
