"""Who may ask for what: API keys, their limits, and whose job is whose. Pure but for the context variable.

Off while the gateway listens on loopback only. A request's key is in `current_key` for as long as it is
served; jobs carry its id as their tenant, by which the scheduler is fair and by which jobs are shown.
"""

import hmac
from collections import deque
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from schemas.keys import ApiKey
from services.gateway.edge.problems import RequestError
from services.records.keys import digest

MINUTE_S, DAY_S = 60.0, 86_400.0
current_key: ContextVar[ApiKey | None] = ContextVar("current_key", default=None)

COOKIE = "stoker_key"
"""Where the dashboard's browser keeps its key."""
OPEN_PATHS = ("/health/", "/static/", "/schema")
"""Answered to anybody: they say nothing of models or jobs."""


@dataclass(slots=True)
class _Use:
    """What a key was used for lately, at this gateway."""

    minute: deque[float] = field(default_factory=deque)
    day_began: float = 0.0
    today: int = 0
    at_once: int = 0


class Access:
    """The keys, and what was done with them."""

    def __init__(self, *, is_required: bool) -> None:
        self.is_required = is_required
        self._by_digest: dict[str, ApiKey] = {}
        self._ids: dict[str, str] = {}
        self._uses: dict[str, _Use] = {}

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to look at: no key is needed and none was made."""
        return not self.is_required and not self._by_digest

    def changed(self, key_id: str, key: ApiKey | None) -> None:
        """A key was made, changed or removed."""
        before = self._ids.pop(key_id, None)
        if before is not None:
            self._by_digest.pop(before, None)
        if key is None or key.revoked_at:
            self._uses.pop(key_id, None)
        if key is not None and not key.revoked_at:
            self._by_digest[key.sha256] = key
            self._ids[key_id] = key.sha256

    def identify(self, authorization: str) -> ApiKey | None:
        """The key of a request; None where none is needed and none was sent. Raises RequestError 401."""
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer" or not secret:
            if self.is_required:
                raise _unauthorized("an API key is needed: Authorization: Bearer …")
            return None
        wanted = digest(secret.strip())
        key = self._by_digest.get(wanted)
        if key is not None and hmac.compare_digest(key.sha256, wanted):
            return key
        if self.is_required:
            raise _unauthorized("this API key is not valid")
        return None  # clients of OpenAI send some key always

    def begin(self, key: ApiKey, now: float) -> Mapping[str, str]:
        """Count a request; headers that say what is left. Raises RequestError 429. `end` it later."""
        use = self._uses.setdefault(key.id, _Use())
        while use.minute and now - use.minute[0] >= MINUTE_S:
            use.minute.popleft()
        if now - use.day_began >= DAY_S:
            use.day_began, use.today = now, 0
        if key.concurrency and use.at_once >= key.concurrency:
            raise _too_many(f"{key.concurrency} requests of this key run already", 1)
        if key.requests_per_minute and len(use.minute) >= key.requests_per_minute:
            wait_s = int(MINUTE_S - (now - use.minute[0])) + 1
            raise _too_many(f"more than {key.requests_per_minute} requests a minute", wait_s)
        if key.requests_per_day and use.today >= key.requests_per_day:
            wait_s = int(DAY_S - (now - use.day_began)) + 1
            raise _too_many(f"more than {key.requests_per_day} requests a day", wait_s)
        use.minute.append(now)
        use.today += 1
        use.at_once += 1
        if not key.requests_per_minute:
            return {}
        left = key.requests_per_minute - len(use.minute)
        return {
            "x-ratelimit-limit-requests": str(key.requests_per_minute),
            "x-ratelimit-remaining-requests": str(left),
        }

    def end(self, key: ApiKey) -> None:
        """A request has been answered."""
        use = self._uses.get(key.id)
        if use is not None and use.at_once:  # else the key was removed meanwhile
            use.at_once -= 1


def check_model(model: str) -> None:
    """Raises RequestError 403 when the request's key may not use the model."""
    key = current_key.get()
    if key is not None and key.models and model not in key.models:
        allowed = ", ".join(key.models)
        raise RequestError(
            403,
            f"this API key may not use {model!r}; it may use {allowed}",
            field="model",
            code="model_not_allowed",
        )


def owner() -> str:
    """The tenant of the request's jobs; "" where no keys are used."""
    key = current_key.get()
    return key.id if key is not None else ""


def is_visible(tenant: str) -> bool:
    """Whether a job of this tenant may be seen by the request's key."""
    key = current_key.get()
    return key is None or key.id == tenant


def _unauthorized(message: str) -> RequestError:
    return RequestError(401, message, code="invalid_api_key")


def _too_many(message: str, retry_after_s: int) -> RequestError:
    return RequestError(429, message, code="rate_limit_exceeded", retry_after_s=retry_after_s)
