"""Every command and snippet of the documentation runs, or is one that another test names."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import DEMO, ROOT
from tests.fixtures.documents import Workbench, blocks_of
from tests.fixtures.tiny_whisper import sound, tiny_whisper

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not shutil.which("curl") or not shutil.which("bash"), reason="needs curl and bash"),
]

ELSEWHERE = {
    "make ": "what CI runs",
    "ct2-transformers-converter": "tests/fixtures/tiny_whisper.py: the same converter, called from Python",
    "pip install": "constraints.txt and `make setup`",
    "nats ": "tests/system/test_reading.py: the same over nats-py, there is no `nats` command here",
    "docker ": "tests/system/test_compose.py",
    "kubectl ": "tests/tidy/test_kubernetes_files.py",
    "cp deploy/env.example": "tests/system/test_compose.py",
    "deploy/nats/make-certificates.sh": "tests/contract/test_nats_files.py",
    "STOKER_OTLP=": "tests/system/test_traces.py",
    "stoker up --config stoker.yaml --host 0.0.0.0": "tests/system/test_keys.py: keys are asked for",
    "stoker worker --nats nats://machine1": "tests/system/launched.py: workers that reach NATS by its address",
    "python -m venv vllm": "tests/contract/test_text_servers.py",
    "STOKER_VLLM=": "tests/contract/test_text_servers.py",
    "stoker up --config modes.yaml": "tests/system/test_modes.py: large checkpoints stand in this page's example",
    "curl localhost:8000/generate": "tests/system/test_modes.py",
    "curl localhost:8000/api/modes/switch": "tests/system/test_modes.py",
    "stoker restore ": "tests/system/test_backup.py",
    "stoker up --data restored": "tests/system/test_backup.py",
    "stoker scheduler --record": "tests/contract/scheduler/test_service.py",
    "stoker replay": "tests/unit/test_recordings.py",
    "stoker chaos ": "tests/system/test_chaos.py",
    "stoker workers ": "tests/security/test_nats_users.py",
    "stoker worker --name gpu-1 --nats-nkey": "tests/security/test_nats_users.py",
    "stoker bench demo-chat -n 2000": "tests/system/test_bench.py: a profile, where the data folder is known",
    "stoker record": "tests/system/test_cli.py",
    "stoker simulate ours.yaml": "tests/system/test_cli.py",
    "stoker quarantine show": "tests/security/test_quarantine.py: there is something to show",
    "stoker quarantine retry": "tests/security/test_quarantine.py",
    "stoker quarantine discard": "tests/security/test_quarantine.py",
    "curl localhost:8000/kandinsky3": "tests/system/test_discovery.py",
}
"""Beginnings of commands that cannot run here, and what runs instead."""
SNIPPETS_ELSEWHERE = {
    "docs/simulation.md: name: ours": "tests/unit/simulation/test_scenario.py",
    "docs/simulation.md: name: race": "tests/unit/simulation/test_launching.py",
    "docs/functions.md: @worker_function()\ndef generate(": "tests/system/test_functions.py: document 000's code",
    "docs/modes.md: from stoker import CustomJob": "tests/system/test_modes.py: example 2",
    "docs/deploy.md: resources: [../stoker": "tests/tidy/test_kubernetes_files.py: an overlay",
    "docs/clients.md: OPENAI_BASE_URL=": "tests/system/test_clients.py: the clients of others, by these addresses",
    "docs/new-engine.md: ": "tests/contract/test_how_tos.py",
    "docs/new-launcher.md: ": "tests/contract/test_how_tos.py",
}
"""Beginnings of other blocks that are run by another test."""
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    found = Workbench(tmp_path)
    yield found
    found.down()
    found.run("stoker stop")  # the background server, where the page has started one


def demo(bench: Workbench) -> None:
    """The page speaks to a system that serves the demo's models."""
    bench.up(DEMO / "stoker.yaml")


def readme(bench: Workbench) -> None:
    shutil.copy(DEMO / "stoker.yaml", bench.folder)
    for name in ("chat.gguf", "image"):
        (bench.folder / name).symlink_to(DEMO / name)
    bench.up(DEMO / "stoker.yaml")


def operating(bench: Workbench) -> None:
    """There is a job to explain."""
    readme(bench)
    assert bench.system is not None
    bench.system.submit("demo-chat")


def http(bench: Workbench) -> None:
    [app] = [block for block in blocks_of("docs/functions.md") if block.file == "hello/app.py"]
    (bench.folder / "hello").mkdir()
    (bench.folder / "hello" / "app.py").write_text(app.text)
    bench.up(DEMO / "stoker.yaml", "--functions", "hello", "--functions", str(ROOT / "examples" / "functions"))


def scaling(bench: Workbench) -> None:
    block = next(block for block in blocks_of("docs/scaling.md") if block.language == "yaml")
    (bench.folder / "llama.yaml").write_text(block.text)


def load_testing(bench: Workbench) -> None:
    bench.substitutions |= {"--seconds 60": "--seconds 1", "--run-time 10s": "--run-time 4s"}
    bench.substitutions |= {"--duration 10": "--duration 4"}
    demo(bench)


def audio(bench: Workbench) -> None:
    """A folder of weights, and a recording."""
    tiny_whisper(bench.folder / "whisper-small")
    (bench.folder / "speech.wav").write_bytes(sound(65))


BEFORE: dict[str, Callable[[Workbench], None]] = {
    "README.md": readme,
    "docs/access.md": demo,
    "docs/audio.md": audio,
    "docs/batches.md": demo,
    "docs/coming-from.md": demo,
    "docs/files.md": demo,
    "docs/deploy.md": demo,
    "docs/http.md": http,
    "docs/load-testing.md": load_testing,
    "docs/operating.md": operating,
    "docs/scaling.md": scaling,
    "docs/schedules.md": demo,
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_says(page: str, bench: Workbench) -> None:
    if page in BEFORE:
        BEFORE[page](bench)
    blocks = blocks_of(page)
    assert len(blocks) == (ROOT / page).read_text().count("\n```") // 2  # none is overlooked
    for block in blocks:
        if f"{page}: {block.text}".startswith(tuple(SNIPPETS_ELSEWHERE)):
            continue
        for command, output in bench.run_block(block, tuple(ELSEWHERE)):
            learn(bench, command, output)


@pytest.mark.parametrize("where", [*ELSEWHERE.values(), *SNIPPETS_ELSEWHERE.values()])
def test_what_is_run_elsewhere_is_there(where: str) -> None:
    named = where.partition(":")[0]
    assert not named.startswith("tests/") or (ROOT / named).exists()


def learn(bench: Workbench, command: str, output: str) -> None:
    """Ids and secrets that later commands of a page stand for."""
    if command.startswith("stoker keys create"):
        secret = re.search(r"sk-stoker-\S+", output)
        assert secret
        bench.substitutions["sk-stoker-…"] = secret[0]
    if command.startswith("stoker keys list"):
        found = re.search(r"\b[0-9a-f]{8}\b", output)
        assert found, output
        bench.substitutions["3f9a2b1c"] = found[0]
