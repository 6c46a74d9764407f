"""What a service does not import, though it is installed: libraries import it for what nobody here uses."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("service", ["gateway", "scheduler", "autoscaler"])
def test_a_service_starts_without_aiohttp(service: str) -> None:
    script = f"import sys, stoker.services.{service}.__main__; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", script], cwd=ROOT, check=False).returncode == 0


def test_settings_are_read_without_nats() -> None:
    script = "import sys, stoker.services.gateway.settings; sys.exit('nats' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", script], cwd=ROOT, check=False).returncode == 0
