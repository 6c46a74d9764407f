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

from tests.conftest import DEMO, free_port


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
    assert not demo.has(tmp_path / "python", "sys")
    assert demo.has(Path(sys.executable), "stoker", "json")
    assert not demo.has(Path(sys.executable), "stoker", "nothing_of_this_name")


def test_without_torch_it_serves_text_alone(demo: ModuleType, tmp_path: Path) -> None:
    from stoker.services.catalog.load import load

    for draws in (False, True):
        options, model = demo.configured(Path(sys.executable), tmp_path / "data", draws=draws)
        names = {one.name for one in load([Path(one) for one in options[1::2]]).models}
        assert {"demo-chat", model} <= names
        assert ("demo-image" in names) is draws


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
