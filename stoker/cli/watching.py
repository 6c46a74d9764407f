"""A job on the terminal: its state on the standard error, its text on the standard output, as they come."""

import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

from stoker.cli.app import fail

BAR_CHARS = 24
SHORT_S = 0.05


TICK_S = 3.0
"""A state that lasts is told to a file again so often."""


class Line:
    """A line of the standard error that is written over: a terminal sees the newest, a file each kind once, and
    that it still lasts.
    """

    def __init__(self, *, is_quiet: bool = False, tick_s: float = TICK_S) -> None:
        self._is_quiet = is_quiet
        self._tick_s = tick_s
        self._has_changed = threading.Event()
        self._is_terminal = sys.stderr.isatty()
        self._kind = ""
        self._has_text = False

    def show(self, kind: str, text: str) -> None:
        """Show a state. kind: where it is the same as before, a file is spared the line."""
        if self._is_quiet:
            return
        if self._is_terminal:
            sys.stderr.write(f"\r\033[K{text}")
            self._has_text = True
        elif kind != self._kind:
            if kind != "queued":  # nearly every job is, for a moment
                sys.stderr.write(text + "\n")
            self._tell_while_it_lasts(text)
        sys.stderr.flush()
        self._kind = kind

    def _tell_while_it_lasts(self, text: str) -> None:
        self._has_changed.set()
        changed = self._has_changed = threading.Event()

        def tell() -> None:
            lasted_s = 0.0
            while not changed.wait(self._tick_s):
                lasted_s += self._tick_s
                sys.stderr.write(f"  … {text.removesuffix(' …')}, {lasted_s:.0f} s\n")
                sys.stderr.flush()

        threading.Thread(target=tell, daemon=True).start()

    def clear(self) -> None:
        """There is something else to see."""
        self._has_changed.set()
        if self._has_text:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
            self._has_text = False


def state_of(event: Any, model: str) -> str:
    """What an event says of a job before its text, for people; "" where it says nothing."""
    data = event.data
    match event.name:
        case "queued":
            eta = data.get("eta_s")
            ahead = data.get("position", 0)
            waits = f"waiting, {ahead} ahead" if ahead else "waiting, next in turn"
            return waits + (f", about {eta:.0f} s" if eta and eta >= 1 else "")
        case "provisioning":
            return f"starting a worker: {data.get('reason', '')}"
        case "downloading" | "loading":
            verb = "getting" if event.name == "downloading" else "loading"
            percent = data.get("percent")
            return f"{verb} {model}" + (
                f" {bar(percent / 100)} {percent:.0f} %" if percent is not None else " …"
            )
        case "progress":
            step, steps = data["step"], data["steps"]
            return f"drawing {bar(step / steps if steps else 0.0)} {step}/{steps}"
    return ""


def bar(share: float) -> str:
    """A bar of a share, 0 to 1."""
    full = round(min(max(share, 0.0), 1.0) * BAR_CHARS)
    return "[" + "#" * full + "-" * (BAR_CHARS - full) + "]"


class Answer:
    """What has been seen of a job's answer."""

    def __init__(self) -> None:
        self.text = ""
        self.end: dict[str, Any] = {}
        self._first_at = self._last_at = 0.0

    def add(self, text: str) -> None:
        self._last_at = time.monotonic()
        self._first_at = self._first_at or self._last_at
        self.text += text

    def summary(self) -> str:
        """`214 tokens, 41 tok/s, stop`; "" where the end says nothing of tokens."""
        result = self.end.get("result")
        if not isinstance(result, dict) or not (usage := result.get("usage")):
            return ""
        tokens = int(usage.get("completion_tokens", 0))
        counted, seconds = tokens - 1, self._last_at - self._first_at
        if (
            seconds < SHORT_S
        ):  # the text came in one piece: what the worker has measured, with the prompt's time
            counted, seconds = tokens, self.end.get("timings", {}).get("run_s", 0.0)
        rate = f", {counted / seconds:.0f} tok/s" if counted > 0 and seconds > 0 else ""
        return f"{tokens} token{'' if tokens == 1 else 's'}{rate}, {result.get('finish_reason', '')}"


def watch(events: Iterable[Any], model: str, *, is_quiet: bool = False) -> Answer:
    """Show a job's events to its end. Ends the program where the job fails."""
    line, answer = Line(is_quiet=is_quiet), Answer()
    try:
        for event in events:
            if event.name == "delta":
                line.clear()
                answer.add(event.data["text"])
                if not is_quiet:
                    sys.stdout.write(event.data["text"])
                    sys.stdout.flush()
            elif shown := state_of(event, model):
                line.show(event.name, shown)
            if "status" in event.data:
                answer.end = event.data
    finally:
        line.clear()
    if answer.text and not is_quiet:
        sys.stdout.write("" if answer.text.endswith("\n") else "\n")
        sys.stdout.flush()
    if answer.end.get("status") != "completed":
        fail(f"{answer.end.get('status', 'lost')}: {(answer.end.get('error') or {}).get('message', '')}")
    return answer
