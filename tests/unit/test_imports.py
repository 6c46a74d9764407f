"""What a service does not import, though it is installed: libraries import it for what nobody here uses."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("module", "left_out"),
    [
        ("stoker.services.gateway.__main__", ["aiohttp", "pygments", "httpx._main"]),
        ("stoker.services.scheduler.__main__", ["aiohttp", "httpx", "rich"]),
        ("stoker.services.autoscaler.__main__", ["aiohttp", "httpx", "rich"]),
        ("stoker.services.worker.__main__", ["aiohttp", "httpx", "rich"]),
        ("stoker.services.worker.runner.__main__", ["aiohttp", "httpx", "rich", "nats"]),
        ("stoker.services.gateway.settings", ["nats"]),
        ("stoker.up", ["aiohttp", "httpx"]),
    ],
)
def test_a_process_starts_without_what_it_does_not_use(module: str, left_out: list[str]) -> None:
    script = f"import sys, {module}; print([name for name in {left_out} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
