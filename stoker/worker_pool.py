"""Custom jobs from Python: your own functions in the queue of the workers, beside the models.

    pool = get_worker_pool()
    future = pool.submit_job(CustomJob(handler=my_preprocessing_task, args=("/path/to/image.png",)))
    result = future.result()

A handler runs on a worker, not here: it travels as its name, `module:function`, and must stand in the
configuration's `handlers:` (the workers' allow list). Arguments and result are JSON.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx

DEFAULT_URL = "http://127.0.0.1:8000"
POLL_S = 60
MAX_IN_FLIGHT = 32
TIMEOUT_S = 90.0


class JobFailed(RuntimeError):
    """The job did not complete; says why."""


@dataclass(frozen=True, slots=True)
class CustomJob:
    """A call of a handler: a function that can be imported by name, or that name."""

    handler: Callable[..., Any] | str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`module:function`. Raises ValueError for what cannot be imported by name."""
        if isinstance(self.handler, str):
            return self.handler
        module, function = self.handler.__module__, self.handler.__qualname__
        if module == "__main__" or not function.isidentifier():
            raise ValueError(f"{function} of {module} cannot be imported by a worker; put it into a module")
        return f"{_public(module)}:{function}"


def _public(module: str) -> str:
    """`os.path` for its platform's own module: what the operator would write."""
    return "os.path" if module in ("posixpath", "ntpath") else module


class WorkerPool:
    """The workers behind one gateway."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=TIMEOUT_S)
        self._threads = ThreadPoolExecutor(MAX_IN_FLIGHT, "stoker-pool")

    def submit_job(self, job: CustomJob) -> "Future[Any]":
        """Queue a job; the future has what the handler returns, or raises JobFailed."""
        return self._threads.submit(self._run, job.name, list(job.args), dict(job.kwargs))

    def _run(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        body = {"model": name, "input": {"args": args, "kwargs": kwargs}}
        answer = self._client.post("/v1/jobs", json=body, headers={"Prefer": f"wait={POLL_S}"})
        while True:
            told = answer.json()
            if answer.status_code == 404 and "model" in told.get("field", ""):
                raise JobFailed(f"{name} is not on the allow list: add it to `handlers:` of the configuration")
            if answer.status_code >= 400:
                raise JobFailed(str(told.get("detail", told)))
            if told["status"] == "completed":
                return told.get("result")
            if told["status"] in ("failed", "cancelled", "expired"):
                raise JobFailed(str((told.get("error") or {}).get("message", told["status"])))
            path = f"/v1/jobs/{told['id']}"
            with self._client.stream("GET", path + "/events") as events:
                for _ in events.iter_lines():
                    pass
            answer = self._client.get(path)


@cache
def get_worker_pool(url: str = "") -> WorkerPool:
    """The pool behind a gateway: `url`, else STOKER_URL, else the one on this machine."""
    return WorkerPool(url or os.environ.get("STOKER_URL", DEFAULT_URL))
