"""`stoker up`: which processes are started with which arguments, and how their lines are shown."""

import asyncio
import io
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from stoker.child import Child
from stoker.schemas.catalog import Model, Spec
from stoker.services.catalog.load import Configuration, WorkerEntry
from stoker.services.process import devices
from stoker.up import COLOURS, Up


def plan(
    configuration: Configuration | None = None, data: Path = Path("/data"), **options: object
) -> dict[str, Child]:
    found = Up(configuration or Configuration(), data, **options)._plan("nats://h:1")  # type: ignore[arg-type]
    return {child.name: child for child in found}


def option(child: Child, name: str) -> str | None:
    return child.arguments[child.arguments.index(name) + 1] if name in child.arguments else None


def test_three_services_are_always_there_and_all_reach_the_same_nats() -> None:
    found = plan(log_level="debug")
    assert list(found) == ["scheduler", "gateway", "autoscaler"]
    for name, child in found.items():
        assert child.module == f"stoker.services.{name}"
        assert (child.nats, option(child, "--log-level")) == ("nats://h:1", "debug")


def test_several_gateways_share_one_port_and_workers_are_numbered_as_before() -> None:
    found = plan(Configuration(workers=(WorkerEntry(count=2),)), gateways=3, port=8123)
    assert list(found) == [
        "scheduler", "gateway", "autoscaler", "gateway-2", "gateway-3", "worker-1", "worker-2"
    ]  # fmt: skip
    gateways = [found[name] for name in ("gateway", "gateway-2", "gateway-3")]
    assert {option(one, "--port") for one in gateways} == {"8123"}
    assert all("--share-port" in one.arguments for one in gateways)
    assert "--share-port" not in plan()["gateway"].arguments


@given(st.lists(st.integers(0, 5), max_size=5))
def test_workers_are_numbered_through_all_entries(counts: list[int]) -> None:
    found = plan(
        Configuration(
            workers=tuple(WorkerEntry(profile=f"p{n}", count=count) for n, count in enumerate(counts))
        )
    )
    workers = list(found.values())[3:]
    assert [child.name for child in workers] == [f"worker-{number}" for number in range(1, sum(counts) + 1)]
    assert [option(child, "--name") for child in workers] == [child.name for child in workers]
    expected = [f"p{n}" for n, count in enumerate(counts) for _ in range(count)]
    assert [option(child, "--profile") for child in workers] == expected
    assert all(child.colour in COLOURS for child in workers)


def test_a_worker_gets_what_its_entry_says_and_no_more() -> None:
    plain, full = (
        list(plan(Configuration(workers=(entry,))).values())[3]
        for entry in (WorkerEntry(), WorkerEntry(memory="2GB", ram=5, engines=("vllm", "ollama")))
    )
    assert [option(plain, name) for name in ("--memory", "--ram", "--engines", "--handlers")] == [
        None,
        "0",
        None,
        None,
    ]
    assert [option(full, name) for name in ("--memory", "--ram", "--engines")] == ["2GB", "5", "vllm,ollama"]


@pytest.mark.parametrize(
    ("smi", "counts", "expected"),
    [
        ("", {"": 1}, [None]),
        ("", {"": 2}, ["35000", "35000"]),
        ("", {"": 3, "2GB": 1}, ["23333", "23333", "23333", "2GB"]),
        ("", {"": 1, "2GB": 2}, [None, "2GB", "2GB"]),
        ("echo '0, GPU-a, 23034, NVIDIA L4'", {"": 2}, [None, None]),
        ("echo 'No devices were found'", {"": 2}, ["35000", "35000"]),
        ("echo broken; exit 9", {"": 2}, ["35000", "35000"]),
        ("true", {"": 2}, ["35000", "35000"]),
    ],
)
def test_workers_on_the_processors_share_the_memory_of_which_nothing_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    smi: str,
    counts: dict[str, int],
    expected: list[str | None],
) -> None:
    """Three workers of a machine had seven tenths of its memory each."""
    if smi:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{smi}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setattr(devices.Machine, "memory_bytes", lambda _: 100_000)
    workers = tuple(WorkerEntry(memory=memory, count=count) for memory, count in counts.items())
    found = list(plan(Configuration(workers=workers)).values())[3:]
    assert [option(child, "--memory") for child in found] == expected


def test_handlers_of_the_configuration_are_the_workers_allow_list() -> None:
    handlers = tuple(Model(name, ("Function",), (Spec("default", "custom", ""),)) for name in ("a:f", "b:g"))
    found = plan(Configuration(models=handlers, workers=(WorkerEntry(),)))
    assert option(found["worker-1"], "--handlers") == "a:f,b:g"
    assert option(found["gateway"], "--handlers") is None


def test_the_gateway_gets_its_address_files_and_switches() -> None:
    plain = plan()["gateway"]
    assert (option(plain, "--host"), option(plain, "--port")) == ("127.0.0.1", "8000")
    assert not {"--config", "--functions", "--reload", "--insecure", "--require-keys"} & set(plain.arguments)
    full = plan(
        host="0.0.0.0", port=9, paths=[Path("/a"), Path("b")], projects=[Path("p")], reload=True, insecure=True,
        require_keys=True,
    )["gateway"]  # fmt: skip
    assert (option(full, "--host"), option(full, "--port")) == ("0.0.0.0", "9")
    assert option(full, "--config") == f"/a,{Path.cwd()}/b"
    assert option(full, "--functions") == f"{Path.cwd()}/p"
    assert {"--reload", "--insecure", "--require-keys"} <= set(full.arguments)


def test_an_autoscaler_knows_its_replicas_again_by_the_folder() -> None:
    one, again, other = (plan(data=Path(data))["autoscaler"] for data in ("/a", "/a", "/b"))
    assert option(one, "--cluster") == option(again, "--cluster") != option(other, "--cluster")
    assert option(one, "--data") == "/a"
    assert "--stop-replicas" in one.arguments


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("print('[bold]x[/y]')", ["worker-1    [bold]x[/y]"]),
        ("import os; os.write(1, b'a\\xffb')", ["worker-1    a\ufffdb"]),
        ("print('a'); print(); print('b')", ["worker-1    a", "worker-1    ", "worker-1    b"]),
        ("print(':smile: a\\x07b\\x1b[1mc')", ["worker-1    :smile: ab\x1b[1mc"]),
        ("pass", []),
    ],
)
async def test_a_line_is_shown_behind_the_name_as_it_is(tmp_path: Path, code: str, shown: list[str]) -> None:
    assert await printed(tmp_path, code) == shown


async def test_after_a_line_longer_than_the_buffer_the_next_one_is_shown(tmp_path: Path) -> None:
    assert (await printed(tmp_path, "print('x' * 200_000); print('after')"))[-1] == "worker-1    after"


async def test_lines_cost_little_so_that_who_says_much_does_not_wait(tmp_path: Path) -> None:
    before = time.process_time()
    assert len(await printed(tmp_path, "for n in range(20_000): print(n, 'x' * 80)")) == 20_000
    assert time.process_time() - before < 3.0


async def printed(tmp_path: Path, code: str) -> list[str]:
    written = io.StringIO()
    found = Up(Configuration(), tmp_path, _console=Console(file=written, width=80, highlight=False))
    child = Child("worker-1", "", [], "red")
    child.process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    await found._print_lines(child)
    await child.process.wait()
    return written.getvalue().splitlines()
