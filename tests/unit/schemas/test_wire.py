"""How Structs become bytes: what is sent comes back, newer fields are ignored, and what is garbage is named so."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas import wire
from stoker.schemas.catalog import (
    MEMORY_PER_FILE_BYTE,
    NEEDS_GPU,
    Adapter,
    Model,
    Spec,
    batch_limit,
    fits_device,
    memory_needed_bytes,
    weights_key,
)
from stoker.schemas.fleet import Candidate, JobsPage, JobView, ModelReplicas, PlatformEvent, QueueDepth
from stoker.schemas.job_events import (
    Assigned,
    Cancelled,
    Completed,
    Delta,
    Downloading,
    EmbeddingOutput,
    Expired,
    Failed,
    ImageOutput,
    JobEvent,
    Loading,
    Picture,
    Preview,
    Progress,
    Provisioning,
    Queued,
    SavedFile,
    Started,
    Terminal,
    TextOutput,
    Timings,
    ValueOutput,
)
from stoker.schemas.jobs import (
    Attachment,
    CallInput,
    ChatInput,
    CompletionInput,
    EmbeddingInput,
    FunctionInput,
    ImageInput,
    Job,
    JobInput,
    LoadInput,
    TranscriptionInput,
    UpscaleInput,
    work_units,
)
from stoker.schemas.keys import ApiKey
from stoker.schemas.openai import ChatMessage, ImagePart, ImageUrl, TextPart, Usage
from stoker.schemas.subjects import from_token
from stoker.schemas.workers import Assignment, AssignmentAnswer, Heartbeat, Replay, ResidentModel

END: dict[str, Any] = {"job": "j", "model": "m", "created_at": 1.0, "finished_at": 2.0}
OUTPUTS = (
    TextOutput("hi", "stop", Usage(1, 2, 3), ({"id": "x"},)),
    EmbeddingOutput(((0.5, 1.0), (0.0, -1.0)), 4),
    ImageOutput((Picture(1, 8, 8, 3), Picture(2, 8, 8, 4, blob="j/1")), {"a": [1, None]}),
    ValueOutput({"deep": [1, {"x": None}]}, (SavedFile("f", "t", 3),)),
)
EVENTS = (
    Queued(0), Queued(3, 1.5), Provisioning("no replica", 9.0),
    Assigned(term=1, attempt=2, seq=3, worker="w", spec="s", tier="hot"),
    Downloading(attempt=1), Downloading(percent=0.0), Loading(tier="warm", percent=50.0), Started(worker="w"),
    Progress(step=1, steps=4), Preview(index=0, step=1, width=8, height=8, image_bytes=9), Delta(at=0, text="ä\n", tokens=2),
    *(Completed(**END, output=output) for output in OUTPUTS),
    Failed(**END, kind="worker_lost", message="gone", timings=Timings(1.0, 2.0, 3.0)), Cancelled(**END, webhook="http://h"),
    Expired(**END, message="late", history=(Assigned(worker="w", spec="s", tier="cold"), Progress(step=1, steps=2))),
)  # fmt: skip
INPUTS = (
    ChatInput((ChatMessage("user", "hi"), ChatMessage("assistant", None, tool_calls=({"id": "1"},)))),
    ChatInput((ChatMessage("user", (TextPart("a"), ImagePart(ImageUrl("data:x")))),), tool_choice={"a": 1}),
    CompletionInput("once", 5, ("stop",)),
    EmbeddingInput(("a", "b")),
    ImageInput(
        "a lake",
        files={"image": Attachment(b"\x00\xff"), "mask_image": Attachment(blob="x")},
        loras=(Adapter("a", "b", 0.5),),
    ),
    UpscaleInput({"image": Attachment(b"x")}, 4, "jpeg", 1),
    LoadInput(),
    CallInput((1, "a", None), {"k": [1]}),
    FunctionInput("f", {"a": {"b": 1}}, {"m": "key"}),
    TranscriptionInput(
        {"audio": Attachment(b"x")}, "translate", "de", "Once", 0.5, has_words=True, file_bytes=1
    ),
)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_comes_back_as_it_was_sent(event: Any) -> None:
    assert wire.decode(JobEvent, wire.encode(event)) == event


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_says_its_kind_in_lower_case(event: Any) -> None:
    assert msgspec.json.decode(wire.encode(event))["event"] == type(event).__name__.lower()


@pytest.mark.parametrize("event", EVENTS[:11], ids=lambda event: type(event).__name__)
def test_an_event_of_a_running_job_is_no_end(event: Any) -> None:
    with pytest.raises(wire.UnreadableMessage):
        wire.decode(Terminal, wire.encode(event))


@pytest.mark.parametrize("job_input", INPUTS, ids=lambda one: type(one).__name__)
def test_a_job_comes_back_with_its_input(job_input: JobInput) -> None:
    job = Job(
        "a.b *",
        "m",
        job_input,
        "g",
        1.5,
        seed=2**32 - 1,
        priority=-10,
        spec=Spec("s", "e", "u", options={"a": [1]}),
    )
    assert wire.decode(Job, wire.encode(job)) == job
    assignment = Assignment(job, 3, 7, Spec("s", "e", ""), "cold", 1.0, ("x",), 5.0)
    assert wire.decode(Assignment, wire.encode(assignment)) == assignment


KINDS = (
    Job,
    JobEvent,
    Terminal,
    Assignment,
    AssignmentAnswer,
    Heartbeat,
    Replay,
    Model,
    ApiKey,
    QueueDepth,
    JobsPage,
    ModelReplicas,
    PlatformEvent,
)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@given(payload=st.binary(max_size=60))
def test_garbage_is_an_unreadable_message_and_nothing_else(kind: Any, payload: bytes) -> None:
    with pytest.raises(wire.UnreadableMessage):
        wire.decode(kind, payload)


def test_deep_nesting_inside_a_known_message_is_unreadable_too() -> None:
    deep = (
        b'{"id":"a","model":"m","gateway":"g","created_at":1,"input":{"kind":"call","args":[' + b"[" * 100_000
    )
    with pytest.raises(wire.UnreadableMessage):
        wire.decode(Job, deep)


def test_what_a_newer_service_says_more_is_ignored_where_messages_are_tolerant() -> None:
    assert wire.decode(JobEvent, b'{"event":"queued","position":1,"mood":"good"}') == Queued(1)
    assert wire.decode(ResidentModel, b'{"model":"m","spec":"s","engine":"e","tier":"hot","x":1}').tier == "hot"


def test_a_key_with_a_field_of_a_later_version_opens_nothing() -> None:
    with pytest.raises(wire.UnreadableMessage, match="admin"):
        wire.decode(ApiKey, b'{"id":"i","name":"n","sha256":"","created_at":1,"admin":true}')


@pytest.mark.parametrize(
    ("kind", "payload", "says"),
    [
        (JobEvent, b'{"event":"dance"}', "dance"),
        (JobEvent, b'{"position":1}', "event"),
        (JobEvent, b'{"event":"queued","position":"1"}', r"\$\.position"),
        (JobView, b'{"id":"a","model":"m","status":3,"created_at":1}', r"\$\.status"),
        (Heartbeat, b"{}", "worker"),
        (Job, b'"text"', "Expected `object`"),
    ],
)
def test_an_unreadable_message_says_where(kind: Any, payload: bytes, says: str) -> None:
    with pytest.raises(wire.UnreadableMessage, match=says):
        wire.decode(kind, payload)


@given(st.text(max_size=20), st.lists(st.binary(max_size=20), max_size=4))
def test_bytes_behind_the_json_come_back(text: str, attachments: list[bytes]) -> None:
    payload, headers = wire.pack(ImageUrl(text), attachments)
    head, attached = wire.unpack(payload, headers)
    assert wire.decode(ImageUrl, head) == ImageUrl(text)
    assert attached == b"".join(attachments)
    assert bool(headers) == bool(attachments)


@pytest.mark.parametrize("length", ["", "-1", "x", "1.0", " 1", "²", "6", "9" * 5000])
def test_a_length_that_cannot_be_is_an_unreadable_message(length: str) -> None:
    with pytest.raises(wire.UnreadableMessage, match=wire.JSON_LENGTH_HEADER):
        wire.unpack(b"12345", {wire.JSON_LENGTH_HEADER: length})


@pytest.mark.parametrize(
    ("length", "head", "rest"), [("0", b"", b"12345"), ("2", b"12", b"345"), ("5", b"12345", b"")]
)
def test_a_length_cuts_the_message(length: str, head: bytes, rest: bytes) -> None:
    assert wire.unpack(b"12345", {wire.JSON_LENGTH_HEADER: length}) == (head, rest)


def test_without_a_length_all_is_json() -> None:
    assert wire.unpack(b"12345", None) == wire.unpack(b"12345", {"Other": "1"}) == (b"12345", b"")


@given(st.one_of(st.text(max_size=30), st.text("=0123456789ABCDEF€ä", max_size=12)))
def test_whatever_stands_in_a_subject_is_a_name(token: str) -> None:
    assert isinstance(from_token(token), str)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("hi", "hi"),
        (None, ""),
        ("", ""),
        ((TextPart("a"), ImagePart(ImageUrl("x")), TextPart("b")), "ab"),
        ((), ""),
    ],
)
def test_a_chat_message_says_its_text_parts(content: Any, text: str) -> None:
    assert ChatMessage("user", content).text() == text


@pytest.mark.parametrize(
    ("job_input", "units"),
    [
        (ChatInput((), 10), 10.0),
        (ChatInput((), None), 256.0),
        (ChatInput((), 100_000), 256.0),
        (CompletionInput("x", 1), 1.0),
        (EmbeddingInput(("a",) * 7), 7.0),
        (ImageInput("x"), 20.0),
        (ImageInput("x", n=3, num_inference_steps=4), 12.0),
        *((one, 1.0) for one in INPUTS[5:]),
        (TranscriptionInput({}, file_bytes=160_000), 10.0),
    ],
)
def test_work_is_counted_in_what_takes_time(job_input: JobInput, units: float) -> None:
    assert work_units(job_input) == units


def test_memory_is_what_was_declared_else_estimated_from_the_size() -> None:
    assert memory_needed_bytes(Spec("s", "e", "u", size_bytes=1000)) == int(1000 * MEMORY_PER_FILE_BYTE)
    assert memory_needed_bytes(Spec("s", "e", "u", size_bytes=1000, memory_bytes=7)) == 7
    assert memory_needed_bytes(Spec("s", "e", "u")) == 0


def test_specs_share_weights_when_engine_url_and_settings_are_the_same() -> None:
    plain = Spec("a", "e", "u")
    same = Spec("b", "e", "u", slots=3, target_requests=1)
    assert weights_key("m", plain) == weights_key("other", same)
    keys = {
        weights_key("m", spec)
        for spec in (
            plain, Spec("a", "f", "u"), Spec("a", "e", "v"), Spec("a", "e", "u", options={"a": 1}),
            Spec("a", "e", "u", args=("a",)), Spec("a", "e", "u", env={"a": "1"}),
        )
    }  # fmt: skip
    assert len(keys) == 6
    one, other = (Spec("a", "e", "u", options=options) for options in ({"a": 1, "b": 2}, {"b": 2, "a": 1}))
    assert weights_key("m", one) == weights_key("m", other)


def test_weights_without_a_url_are_the_models_own_by_version() -> None:
    assert weights_key("m", Spec("a", "e", "")) == "m"
    assert weights_key("m", Spec("a", "e", "", options={"version": "7"})) == "m@7"


@pytest.mark.parametrize(("device", "fits"), [("cpu (x86)", False), ("cpu", False), ("NVIDIA H100", True)])
def test_what_needs_a_gpu_does_not_fit_a_processor(device: str, fits: bool) -> None:
    assert fits_device(Spec("a", "e", "u", options={NEEDS_GPU: True}), device) is fits
    assert fits_device(Spec("a", "e", "u"), device)


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({}, 1),
        ({"batch": 4}, 4),
        ({"batch": 0}, 1),
        ({"batch": -2}, 1),
        ({"batch": "4"}, 1),
        ({"batch": 2.5}, 1),
    ],
)
def test_jobs_run_as_one_when_the_option_says_how_many(options: dict[str, Any], limit: int) -> None:
    assert batch_limit(Spec("a", "e", "u", options=options)) == limit


def test_a_candidate_takes_the_sum_of_what_is_known() -> None:
    assert Candidate("w", "s", "hot", 1.0, 2.0, 4.0, 8.0).total_s == 15.0
    assert Candidate("w", "s", "hot", None, 2.0, None).total_s == 2.0


def test_adapters_of_all_specs_are_named_once_in_order() -> None:
    specs = tuple(
        Spec("s", "e", "u", adapters=tuple(Adapter(name, "u") for name in names)) for names in ("ba", "cb", "")
    )
    assert Model("m", (), specs).adapter_names() == ("a", "b", "c")
