"""What each key has used, and what is left of its limits. Pure; the clock is given.

Every gateway keeps this book of all: what one does for a key it tells the others (limits.py). Requests and
tokens are counted in a window of a minute, requests and device seconds by the day (UTC), jobs from acceptance
to their end, however they were submitted.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from stoker.schemas.keys import ApiKey
from stoker.schemas.usage import KeyUse
from stoker.services.gateway.edge.problems import RequestError

MINUTE_S, DAY_S = 60.0, 86_400.0


@dataclass(slots=True)
class _Window:
    """Amounts of the last minute."""

    entries: deque[tuple[float, int]] = field(default_factory=deque)
    total: int = 0

    def add(self, now: float, amount: int) -> None:
        self.entries.append((now, amount))
        self.total += amount

    def left_until(self, now: float) -> float:
        """Forget what is older than a minute; seconds until the oldest of the rest is."""
        while self.entries and now - self.entries[0][0] >= MINUTE_S:
            self.total -= self.entries.popleft()[1]
        return MINUTE_S - (now - self.entries[0][0]) if self.entries else 0.0


@dataclass(slots=True)
class _Use:
    """jobs: under way, with when that was noted. day: since 1970; the counts of another day are none."""

    requests: _Window = field(default_factory=_Window)
    tokens: _Window = field(default_factory=_Window)
    day: int = 0
    requests_today: int = 0
    device_s_today: float = 0.0
    jobs: dict[str, float] = field(default_factory=dict)

    def turn(self, now: float) -> None:
        if int(now // DAY_S) != self.day:
            self.day, self.requests_today, self.device_s_today = int(now // DAY_S), 0, 0.0


class Book:
    """What was used, by key. now: seconds since 1970."""

    def __init__(self) -> None:
        self._uses: dict[str, _Use] = {}

    def forget(self, key: str) -> None:
        """The key is no longer there."""
        self._uses.pop(key, None)

    def _use(self, key: str, now: float) -> _Use:
        use = self._uses.setdefault(key, _Use())
        use.turn(now)
        return use

    def note(self, told: KeyUse, now: float) -> None:
        """Something was used, here or at another gateway."""
        use = self._use(told.key, now)
        if told.requests:
            use.requests.add(now, told.requests)
            use.requests_today += told.requests
        if told.tokens:
            use.tokens.add(now, told.tokens)
        use.device_s_today += told.device_s
        if told.began:
            use.jobs[told.began] = now
        if told.ended:
            use.jobs.pop(told.ended, None)

    def check_request(self, key: ApiKey, now: float) -> Mapping[str, str]:
        """Headers that say what is left after one more request. Raises RequestError 429."""
        use = self._use(key.id, now)
        request_s, token_s = use.requests.left_until(now), use.tokens.left_until(now)
        if key.requests_per_minute and use.requests.total >= key.requests_per_minute:
            raise _too_many(
                f"more than {key.requests_per_minute} requests a minute", request_s, _headers(key, use)
            )
        if key.tokens_per_minute and use.tokens.total >= key.tokens_per_minute:
            raise _too_many(f"more than {key.tokens_per_minute} tokens a minute", token_s, _headers(key, use))
        if key.requests_per_day and use.requests_today >= key.requests_per_day:
            raise _too_many(f"more than {key.requests_per_day} requests a day", DAY_S - now % DAY_S)
        return _headers(key, use, 1)

    def check_jobs(self, key: ApiKey, jobs: Collection[str], now: float, *, are_calls: bool = False) -> None:
        """Raises RequestError where the key may not have these jobs as well: 429, or 400 where it never may
        have so many. are_calls: of a job that is under way, which waits for them: they are no more at a time.
        """
        use = self._use(key.id, now)
        if key.concurrency and not are_calls:
            if len(jobs) > key.concurrency:
                most = f"this key may have {key.concurrency} jobs at a time"
                message = f"{len(jobs)} answers are as many jobs, and {most}"
                raise RequestError(400, message, field="n", code="invalid_value")
            others = len(use.jobs.keys() - set(jobs))
            if others + len(jobs) > key.concurrency:
                raise _too_many(f"{others} jobs of this key are under way already", 1)
        if key.device_seconds_per_day and use.device_s_today >= key.device_seconds_per_day:
            limit_s = key.device_seconds_per_day
            raise _too_many(f"more than {limit_s:g} seconds of devices a day", DAY_S - now % DAY_S)

    def jobs(self, key: str) -> set[str]:
        """Jobs that are under way, as far as is known."""
        return set(self._uses[key].jobs) if key in self._uses else set()

    def busy(self) -> list[str]:
        """Keys that have jobs under way."""
        return [key for key, use in self._uses.items() if use.jobs]

    def all_jobs(self) -> set[str]:
        """Jobs of all keys that are under way."""
        return {job for use in self._uses.values() for job in use.jobs}

    def reconcile(self, key: str, under_way: Iterable[str], now: float, asked_at: float) -> None:
        """The scheduler has these jobs of the key. What was noted after it was asked stays."""
        use = self._use(key, now)
        kept = {job: at for job, at in use.jobs.items() if at >= asked_at}
        use.jobs = dict.fromkeys(under_way, asked_at) | kept

    def today(self, now: float) -> list[KeyUse]:
        """What a gateway that has just started must know: the counts of the day."""
        return [
            KeyUse(key, requests=use.requests_today, device_s=use.device_s_today)
            for key, use in self._uses.items()
            if use.day == int(now // DAY_S) and (use.requests_today or use.device_s_today)
        ]

    def learn_today(self, told: KeyUse, now: float) -> None:
        """Another gateway's counts of the day: the greater ones hold."""
        use = self._use(told.key, now)
        use.requests_today = max(use.requests_today, told.requests)
        use.device_s_today = max(use.device_s_today, told.device_s)


def _headers(key: ApiKey, use: _Use, more: int = 0) -> dict[str, str]:
    """The headers of the OpenAI API. more: requests that are counted already."""
    found: dict[str, str] = {}
    rows = (
        ("requests", key.requests_per_minute, use.requests, more),
        ("tokens", key.tokens_per_minute, use.tokens, 0),
    )
    for name, limit, window, added in rows:
        if limit:
            reset_s = MINUTE_S - (window.entries[-1][0] - window.entries[0][0]) if window.entries else 0.0
            found |= {
                f"x-ratelimit-limit-{name}": str(limit),
                f"x-ratelimit-remaining-{name}": str(max(limit - window.total - added, 0)),
                f"x-ratelimit-reset-{name}": f"{reset_s:.0f}s",
            }
    return found


def _too_many(message: str, wait_s: float, headers: Mapping[str, str] | None = None) -> RequestError:
    error = RequestError(429, message, code="rate_limit_exceeded", retry_after_s=max(int(wait_s) + 1, 1))
    error.headers = dict(headers or {})
    return error
