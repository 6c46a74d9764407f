"""How a service process ends: with the status that tells who runs it what to do."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from stoker.services.process import running
from stoker.services.process.settings import BusSettings

async def serve(settings, stopping):
    raise getattr(running, sys.argv[1])("this is why")

running.exit_with(lambda arguments: running.run_service("test", BusSettings(), serve))
"""


@pytest.mark.parametrize(("error", "status"), [("StoppedAtStart", 0), ("CannotStart", 2), ("CannotGoOn", 1)])
def test_the_status_says_whether_it_is_to_be_started_again(error: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, error], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == status
    assert "this is why" in done.stderr
    assert "Traceback" not in done.stderr


LOGS = """
import sys
from stoker.services.process import running
from stoker.services.process.logs import get_logger
from stoker.services.process.settings import BusSettings

async def serve(settings, stopping):
    for number in range(10_000):
        get_logger("part").warning("it_goes_on", number=number)
    print("went on", flush=True)

running.exit_with(lambda arguments: running.run_service("test", BusSettings(), serve))
"""


def test_a_service_goes_on_when_nobody_reads_its_log() -> None:
    """A collector of logs that hangs stopped every service that it read."""
    command = [sys.executable, "-P", "-c", LOGS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as service:
        assert service.stdout is not None and service.stdout.readline() == b"went on\n"
        assert service.wait(30) == 0
        assert service.stderr is not None and b"it_goes_on" in service.stderr.readline()
