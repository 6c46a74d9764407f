"""How every service process runs: settings, logs, uvloop, signals, and one clean way to stop."""

import asyncio
import contextlib
import ctypes
import gc
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import uvloop

from stoker.services.process import open_files
from stoker.services.process.logs import configure_logs, get_logger
from stoker.services.process.settings import BadSetting, BusSettings
from stoker.services.process.tracing import close_tracing, configure_tracing

S = TypeVar("S", bound=BusSettings)

_PR_SET_PDEATHSIG = 1


class CannotStart(Exception):
    """Something that a service needs is not there; says what, and what to do."""


class CannotGoOn(Exception):
    """Something that a service needs is gone for good; who runs it starts it again."""


class StoppedAtStart(Exception):
    """The process was told to stop before it had what it needs: a normal end."""


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Ask Linux to end this process with a signal when its parent dies; elsewhere nothing happens."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def _calm_collector() -> None:
    """Let the cycle collector run rarely: our messages are trees, and a full pass over a scheduler's books
    stops everything for 10 ms and more (10 % of all requests a second, bench/RESULTS.md)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 1000)


def run_service(
    name: str, settings: S, serve: Callable[[S, asyncio.Event], Awaitable[None]], **context: str
) -> int:
    """Run `serve(settings, stopping)` until it returns; SIGTERM and SIGINT set `stopping`.

    Returns an exit status: 0, 2 when NATS could not be reached, 1 when it was lost for good.
    """
    printer = configure_logs(settings.log_level, settings.log_format, service=name, **context)
    configure_tracing(settings.otlp, name, **context)
    log = get_logger("process")

    async def main() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        await serve(settings, stopping)

    _calm_collector()
    open_files.raise_limit()
    try:
        uvloop.run(main())
    except StoppedAtStart as stopped:
        log.info("service.stopped", reason=str(stopped))
    except (CannotStart, BadSetting) as error:
        log.error("service.not_started", reason=str(error))
        return 2
    except CannotGoOn as error:
        log.error("service.ended", reason=str(error), remedy="it is to be started again")
        return 1
    finally:
        close_tracing()
        printer.close()
    return 0


def exit_with(run: Callable[[Sequence[str]], int]) -> None:
    """End the process with the status of a service that is given its arguments; 2 where a setting is wrong."""
    try:
        status = run(sys.argv[1:])
    except BadSetting as error:
        print(error, file=sys.stderr)
        status = 2
    sys.stderr.flush()
    sys.exit(status)
