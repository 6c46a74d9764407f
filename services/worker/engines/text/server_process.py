"""An engine's own server as a child process: started, watched, its log kept, stopped with all it started."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import httpx

from stoker.services.process.http_clients import client as client_of
from stoker.services.process.running import die_with_parent
from stoker.services.worker.engines.base import EngineError

POLL_S = 0.1
STOP_GRACE_S = 10.0
TAIL_LINES = 20
SHOWN_LINES = 6
LINE_CHARS = 400


class ServerProcess:
    """One server. `died` is called from a thread when it ends without having been stopped."""

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], died: Callable[[str], None]
    ) -> None:
        self._name = name
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._is_stopping = False
        self._died = died
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                preexec_fn=die_with_parent,
                start_new_session=True,
            )
        except OSError as error:
            raise EngineError(f"{name}: {command[0]}: {error.strerror}", "load_failed") from error
        self._is_ready = False
        threading.Thread(target=self._watch, name=f"{name} log", daemon=True).start()

    def _watch(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            text = line.decode(errors="replace").rstrip()[:LINE_CHARS]
            if text:
                self._tail.append(text)
                print(f"{self._name}: {text}", file=sys.stderr, flush=True)
        self.process.wait()
        if self._is_ready and not self._is_stopping:
            self._died(self.ending())

    def ending(self) -> str:
        """How it ended, with the last lines of its log."""
        tail = " | ".join(list(self._tail)[-SHOWN_LINES:])
        return f"{self._name} ended with status {self.process.poll()}: {tail or 'it has logged nothing'}"

    def wait_ready(self, health: str, timeout_s: float) -> None:
        """Return when a GET of `health` succeeds. Raises EngineError with the log's tail otherwise."""
        deadline = time.monotonic() + timeout_s
        with client_of(health, timeout=2.0) as client:
            while True:
                if self.process.poll() is not None:
                    raise EngineError(self.ending(), "load_failed")
                with contextlib.suppress(httpx.HTTPError):
                    if client.get(health).status_code == 200:
                        self._is_ready = True
                        return
                if time.monotonic() > deadline:
                    self.stop()
                    raise EngineError(f"{self._name} was not ready within {timeout_s:g} s", "load_failed")
                time.sleep(POLL_S)

    def stop(self) -> None:
        """Ask it to end; end its whole session when it does not."""
        self._is_stopping = True
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_GRACE_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
