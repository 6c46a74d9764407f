"""What tests that import projects put back afterwards."""

import importlib
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture
def own_imports() -> Iterator[None]:
    """Modules, finders and paths are as they were, once the test is over; no `app` of a test before is there."""
    for name in [one for one in sys.modules if one.partition(".")[0] == "app"]:
        del sys.modules[name]
    before, path, finders = set(sys.modules), list(sys.path), list(sys.meta_path)
    yield
    sys.path[:], sys.meta_path[:] = path, finders
    for name in set(sys.modules) - before:
        del sys.modules[name]
    importlib.invalidate_caches()
