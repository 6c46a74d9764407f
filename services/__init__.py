"""The four services (gateway, scheduler, worker, autoscaler) and what they share (catalog, bus).

Half of a service's start was imports that libraries make only because something happens to be installed:
nats-py imports aiohttp (WebSockets), structlog rich (colours), httpx click (a command line).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import cast


@contextmanager
def without(name: str) -> Iterator[None]:
    """Inside, imports go as if this were not installed."""
    before = sys.modules.get(name)
    sys.modules[name] = cast("ModuleType", None)
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
