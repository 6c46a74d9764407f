"""`make demo`: an answer from a checkout, with something said all along, and no codes and warnings in a pipe."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import DEMO, ROOT, free_port


@pytest.fixture
def demo() -> Iterator[ModuleType]:
    spec = spec_from_file_location("demo_script", DEMO / "demo.py")
    assert spec is not None and spec.loader is not None
    found = module_from_spec(spec)
    spec.loader.exec_module(found)
    yield found


def test_a_step_says_that_it_is_still_going_on(
    demo: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "TICK_S", 0.01)
    said = ""
    with demo.step("waiting"):
        while "  … waiting, 0 s" not in said:
            said += capsys.readouterr().out
            time.sleep(0.01)
    assert said.startswith("- waiting …\n")
    assert "  done in " in capsys.readouterr().out


def test_what_fails_says_what_it_said(demo: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no such thing"):
        demo.run(sys.executable, "-c", "raise SystemExit('no such thing')")
    assert demo.look(tmp_path / "python") is None
    found = demo.look(Path(sys.executable))
    assert found is not None and found.draws and found.python == Path(sys.executable)
    bare = tmp_path / "bare" / "bin" / "python"  # without Stoker
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    assert demo.look(bare) is None


def test_without_torch_it_serves_text_alone(demo: ModuleType, tmp_path: Path) -> None:
    from stoker.services.catalog.load import load

    for draws, weights in ((False, ""), (True, ""), (False, "/somewhere/smol.gguf")):
        found = demo.Environment(Path(sys.executable), draws, weights)
        options, model = demo.configured(found, tmp_path / "data")
        names = {one.name for one in load([Path(one) for one in options[1::2]]).models}
        assert {"demo-chat", model} <= names
        assert ("demo-image" in names) is draws
        assert model == ("smollm2" if weights else "demo-chat")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_clone_without_anything_makes_a_small_environment_and_starts_quickly_again(tmp_path: Path) -> None:
    """What the README promises: from a clone, no environment there, with the package cache of this machine."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    command = [sys.executable, str(clone / "examples" / "demo" / "demo.py"), "--once", "--port"]
    for is_first in (True, False):
        began = last = time.monotonic()
        longest_s = 0.0
        said = ""
        with subprocess.Popen(
            [*command, str(free_port())],
            cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as running:  # fmt: skip
            assert running.stdout is not None
            for line in running.stdout:
                now = time.monotonic()
                longest_s, last = max(longest_s, now - last), now
                said += line
        assert running.returncode == 0, said
        assert ("making .venv-demo" in said) is is_first
        assert re.search(r"\d+ tokens, \d+ tok/s, (stop|length)", said), said
        assert longest_s < 5.0, f"{longest_s:.1f} s without a line:\n{said}"
        print(f"{'first' if is_first else 'second'} start: {time.monotonic() - began:.1f} s in all\n{said}")
    kept = sum(one.stat().st_size for one in (clone / ".venv-demo").rglob("*") if one.is_file())
    weights = sum(one.stat().st_size for one in (clone / ".venv-demo").rglob("*.gguf"))
    assert kept - weights < 260e6
    assert "Stoker" in subprocess.run(
        [clone / ".venv-demo" / "bin" / "stoker", "--help"], capture_output=True, text=True, check=True
    ).stdout  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_answers_and_draws(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(DEMO / "demo.py"),
        "--once",
        "--port",
        str(free_port()),
        "--data",
        str(tmp_path / "d"),
    ]
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "STOKER_URL")}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Stoker is a model-serving platform" in done.stdout
    assert re.search(r"\d+ tokens, \d+ tok/s, stop", done.stderr)
    assert (tmp_path / "demo-image.png").read_bytes().startswith(b"\x89PNG")
    assert "\033" not in done.stdout + done.stderr
    assert "torchvision" not in done.stdout + done.stderr
