"""Who may ask for what: API keys, their roles and models, and whose job is whose. Limits: usage.py.
Pure but for the context variable.

Off while the gateway listens on loopback only. A request's key is in `current_key` for as long as it is
served; jobs carry its id as their tenant, by which the scheduler is fair and by which jobs are shown.
"""

import hmac
from contextvars import ContextVar

from stoker.functions.errors import redacted
from stoker.schemas.keys import ROLES, ApiKey, Role
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.records.keys import digest

current_key: ContextVar[ApiKey | None] = ContextVar("current_key", default=None)

COOKIE = "stoker_key"
"""Where the dashboard's browser keeps its key."""
OPEN_PATHS = ("/health/", "/static/", "/schema")
"""Answered to anybody: they say nothing of models or jobs."""
OPEN_PAGES = (
    "/", "/timeline", "/playground", "/models", "/specs", "/keys", "/quarantine", "/configuration",
    "/schedules", "/jobs",
)  # fmt: skip
"""The dashboard's pages, empty of content, and those below the last: they ask for a key themselves."""


def is_open(path: str) -> bool:
    """Whether a path is answered to anybody."""
    return path in OPEN_PAGES or path.startswith((*OPEN_PATHS, "/jobs/"))


class Access:
    """The keys."""

    def __init__(self, *, is_required: bool) -> None:
        self.is_required = is_required
        self._by_digest: dict[str, ApiKey] = {}
        self._ids: dict[str, str] = {}

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to look at: no key is needed and none was made."""
        return not self.is_required and not self._by_digest

    def changed(self, key_id: str, key: ApiKey | None) -> None:
        """A key was made, changed or removed."""
        before = self._ids.pop(key_id, None)
        if before is not None:
            self._by_digest.pop(before, None)
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

    def keys(self) -> list[ApiKey]:
        """Every valid key."""
        return list(self._by_digest.values())

    def key(self, key_id: str) -> ApiKey | None:
        """A key that is valid."""
        return self._by_digest.get(self._ids.get(key_id, ""))


def may(needed: Role) -> bool:
    """Whether the request's key has this role, or a higher one."""
    key = current_key.get()
    return key is None or ROLES.index(key.role) >= ROLES.index(needed)


def check_role(needed: Role) -> None:
    """Raises RequestError 403 when the request's key is of a lower role."""
    key = current_key.get()
    if key is not None and not may(needed):
        raise RequestError(
            403,
            f"this needs a key of the role {needed!r} (`stoker keys create --role`), not {key.role!r}",
            code="role_not_allowed",
        )


def may_use(model: str) -> bool:
    """Whether the request's key may use a model."""
    key = current_key.get()
    return key is None or not key.models or model in key.models


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


def listed_tenant() -> str:
    """Whose jobs the request's key may list; "": everybody's."""
    key = current_key.get()
    return key.id if key is not None and key.role == "use" else ""


def shown_to(tenant: str, message: str) -> str:
    """An error of a job as its tenant may read it: who only uses models is not told paths of the servers."""
    key = current_key.get()
    is_operators = key is not None and key.role != "use"
    return message if is_operators or not tenant else redacted(message)


def is_visible(tenant: str) -> bool:
    """Whether a job of this tenant may be seen by the request's key."""
    key = current_key.get()
    return key is None or key.id == tenant or key.role != "use"


def _unauthorized(message: str) -> RequestError:
    return RequestError(401, message, code="invalid_api_key")
