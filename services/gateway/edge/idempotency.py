"""`Idempotency-Key`: a request that is sent again under its name gets the answer of the jobs it has made. Pure.

The names of those jobs are made of the key and of whose it is, so every gateway knows them; and each job keeps
what was asked (`fingerprint`), so that another request under the same key is a conflict.
"""

import hashlib

from stoker.services.gateway.edge.access import owner
from stoker.services.gateway.edge.problems import RequestError

HEADER = b"idempotency-key"
NAME = "Idempotency-Key"
MAX_KEY_CHARS = 255


def fingerprint_of(body: bytes) -> str:
    """A short hash that tells whether two requests are the same."""
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def conflict(job: str) -> RequestError:
    """Another request has made this job."""
    return RequestError(409, f"job {job!r} exists with another body", code="conflict", field="id")


class Named:
    """A request with a key. fingerprint: of what it asks. Raises RequestError 400."""

    def __init__(self, key: str, path: str, body: bytes, content_type: str) -> None:
        if len(key) > MAX_KEY_CHARS:
            raise RequestError(400, f"{NAME} has at most {MAX_KEY_CHARS} characters", field=NAME)
        if boundary := _boundary(content_type):  # clients choose another one each time
            body = body.replace(boundary, b"")
        self.fingerprint = fingerprint_of(path.removeprefix("/openai").encode() + b"\n" + body)
        self._name = f"{owner()} {key}"  # the same key of another tenant names other jobs
        self._jobs = 0

    @property
    def has_job(self) -> bool:
        return self._jobs > 0

    def next_job(self) -> str:
        """The id of the next job that the request makes."""
        name = f"{self._name}\n{self._jobs}" if self._jobs else self._name
        self._jobs += 1
        return "k" + hashlib.blake2b(name.encode(), digest_size=15).hexdigest()


def _boundary(content_type: str) -> bytes:
    """Of a form; b"" of anything else."""
    kind, _, found = content_type.partition("boundary=")
    return found.partition(";")[0].strip(' "').encode() if kind.lower().startswith("multipart/") else b""
