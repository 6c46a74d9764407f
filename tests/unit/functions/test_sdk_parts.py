"""Parts of the function SDK: frames, redaction, contexts. Whatever comes, it has an answer."""

import base64
import io
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError

from stoker.functions import (
    ActionContext,
    AuthError,
    Cancelled,
    FatalError,
    FileRef,
    FunctionError,
    RetryableError,
    ValidationError,
)
from stoker.functions import context as context_module
from stoker.functions.errors import MAX_MESSAGE_CHARS, kind_of, message_of, redacted
from stoker.functions.frames import Frames, frame
from stoker.functions.messages import (
    Call,
    CallDone,
    CallFailed,
    CancelCall,
    File,
    FromHost,
    LoadModel,
    Message,
    ToHost,
    UnloadModel,
)

MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(LoadModel, st.text(max_size=9), st.text(max_size=9), st.text(max_size=9)),
    st.builds(UnloadModel, st.text(max_size=9)),
    st.builds(
        Call, st.text(max_size=9), st.text(max_size=9), st.text(max_size=9),
        st.dictionaries(st.text(max_size=5), st.one_of(st.integers(0, 9), st.text(max_size=5)), max_size=3),
        st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3), st.integers(0, 2**32),
    ),
    st.builds(CancelCall, st.text(max_size=9)),
)  # fmt: skip


@given(messages=st.lists(MESSAGES, max_size=6), size=st.integers(1, 50))
def test_messages_come_out_as_they_went_in_however_the_stream_is_cut(
    messages: list[Message], size: int
) -> None:
    stream = b"".join(map(frame, messages))
    frames = Frames(ToHost, 1000)
    found = [one for start in range(0, len(stream), size) for one in frames.feed(stream[start : start + size])]
    assert found == messages


@given(st.lists(st.binary(max_size=30), max_size=10))
def test_whatever_comes_over_a_stream_is_a_message_or_a_decode_error(chunks: list[bytes]) -> None:
    frames = Frames(ToHost, 1000)
    try:
        for chunk in chunks:
            for message in frames.feed(chunk):
                assert isinstance(message, Message)
    except msgspec.DecodeError:
        pass


def test_a_frame_of_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    whole = frame(CallDone("1", b"x" * 100, (File("f", "t", b"y"),)))
    limit = len(whole) - 4
    assert Frames(FromHost, limit).feed(whole) == [CallDone("1", b"x" * 100, (File("f", "t", b"y"),))]
    with pytest.raises(msgspec.DecodeError, match=f"a frame of {limit} bytes"):
        Frames(FromHost, limit - 1).feed(whole[:4])


def test_a_message_for_the_other_side_is_an_error() -> None:
    with pytest.raises(msgspec.ValidationError):
        Frames(FromHost, 1000).feed(frame(CancelCall("1")))
    with pytest.raises(msgspec.ValidationError):
        Frames(ToHost, 1000).feed(frame(CallFailed("1", "fatal", "x")))


@pytest.mark.parametrize(
    "text",
    [
        "https://me:SECRETWORD@host/x",
        "GET redis://SECRETWORD@host",
        "Authorization: Bearer SECRETWORD",
        "token=SECRETWORD",
        "access_token=SECRETWORD",
        "https://host/x?api_key=SECRETWORD",
        "X-Api-Key: SECRETWORD",
        "HF_TOKEN=SECRETWORD",
        "AWS_SECRET: SECRETWORD",
        "{'api_key': 'SECRETWORD'}",
        '{"password": "SECRETWORD"}',
        '{"token":"SECRETWORD"}',
        "password  SECRETWORD",
        "PASSWORD=SECRETWORD",
        "key sk-stoker-SECRETWORD",
        "key hf_SECRETWORDx",
        "key ghp_SECRETWORDx",
        "key xoxb-SECRETWORD",
        "key github_pat_SECRETWORD",
    ],
)
def test_a_secret_is_not_shown(text: str) -> None:
    said = redacted(text)
    assert "SECRETWORD" not in said
    assert "***" in said


@pytest.mark.parametrize(
    "text",
    [
        "shape (3, 4) does not match (4, 3)",
        "max_tokens must be 5",
        "https://huggingface.co/owner/name is not there",
        "1/2 of the steps",
        "a/b is not a model",
        "tokenizer is missing",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no /home/me/data/x.bin", "no …/x.bin"),
        ("/etc/passwd", "…/passwd"),
        ("'/a/b/c'", "'…/c'"),
        ("/tmp", "/tmp"),
    ],
)
def test_of_a_path_its_last_part_is_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown


@given(st.text(max_size=1200))
def test_a_message_is_never_longer_than_its_limit(text: str) -> None:
    assert len(redacted(text)) <= MAX_MESSAGE_CHARS
    assert redacted("x" * MAX_MESSAGE_CHARS) == "x" * MAX_MESSAGE_CHARS
    assert redacted("x" * (MAX_MESSAGE_CHARS + 1)).endswith("x…")


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (ValidationError("no"), "validation", "no"),
        (RetryableError("later"), "retryable", "later"),
        (AuthError(), "auth", "AuthError"),
        (FatalError(""), "fatal", "FatalError"),
        (Cancelled("gone"), "cancelled", "gone"),
        (OutOfMemoryError("full"), "resource", "OutOfMemoryError: full"),
        (KeyError("x"), "fatal", "KeyError: 'x'"),
        (UnidentifiedImageError("no picture"), "validation", "UnidentifiedImageError: no picture"),
        (FunctionError("plain"), "fatal", "plain"),
    ],
)
def test_a_failure_has_its_kind_and_its_words(error: Exception, kind: str, said: str) -> None:
    assert (kind_of(error), message_of(error, with_trace=False)) == (kind, said)


@pytest.mark.parametrize(
    ("done", "total", "heard"),
    [
        (0, 1, (0, 100)),
        (1, 1, (100, 100)),
        (0.333, 1, (33, 100)),
        (0, 10, (0, 10)),
        (10, 10, (10, 10)),
        (1.5, 3, (50, 100)),
        (2.0, 4.0, (2, 4)),
    ],
)
def test_progress_is_steps_or_percent(done: float, total: float, heard: tuple[int, int]) -> None:
    reported: list[tuple[int, int]] = []
    ActionContext(report=lambda step, steps: reported.append((step, steps))).progress(done, total)
    assert reported == [heard]


@pytest.mark.parametrize(
    ("done", "total"),
    [(-1, 1), (1.1, 1), (0, 0), (0, -1), (float("nan"), 1), (0, float("nan")), (0, float("inf"))],
)
def test_progress_beyond_its_total_is_an_error(done: float, total: float) -> None:
    with pytest.raises(ValueError, match="done must be between 0 and the total"):
        ActionContext().progress(done, total)


def test_waiting_ends_at_once_when_the_call_is_cancelled() -> None:
    cancelled = threading.Event()
    context = ActionContext(cancelled=cancelled)
    assert not context.cancelled
    assert context.wait_cancelled(0.0) is False
    context.raise_if_cancelled()
    threading.Timer(0.01, cancelled.set).start()
    assert context.wait_cancelled(30.0) is True
    assert context.cancelled


def test_files_are_numbered_and_their_types_guessed(tmp_path: Path) -> None:
    context = ActionContext("job 1")
    (tmp_path / "x").write_bytes(b"abc")
    refs = [
        context.save_file(b"", "a.json"),
        context.save_file(tmp_path / "x", "b.unknown-kind"),
        context.save_file(b"x", "c.json", "text/plain"),
    ]
    assert [(ref.url, ref.content_type, ref.size_bytes) for ref in refs] == [
        ("/v1/jobs/job 1/files/0", "application/json", 0),
        ("/v1/jobs/job 1/files/1", "application/octet-stream", 3),
        ("/v1/jobs/job 1/files/2", "text/plain", 1),
    ]
    assert [file.content for file in context.files] == [b"", b"abc", b"x"]


def test_a_file_that_is_too_large_is_refused_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_module, "MAX_FILE_BYTES", 3)
    context = ActionContext()
    context.save_file(b"abc", "a")
    with pytest.raises(ValueError, match="b has 4 bytes; at most 3 are kept"):
        context.save_file(b"abcd", "b")
    assert len(context.files) == 1


@given(st.binary(max_size=100), st.sampled_from(["", "text/plain", "image/png;x=y"]))
def test_a_data_url_gives_its_bytes(content: bytes, kind: str) -> None:
    url = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    assert ActionContext().read_file(FileRef(url)) == content


@pytest.mark.parametrize(
    "url",
    ["", "data:,abc", "data:;base64", "http://x/;base64,YQ==", "file:///etc/passwd", "/v1/jobs/x/files/0"],
)
def test_what_is_no_data_url_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="a file of a payload is a data: URL in base64"):
        ActionContext().read_file(FileRef(url))


@pytest.mark.parametrize("data", ["a", "!!!!", "YQ", "YQ==x", "ä"])
def test_what_is_no_base64_is_refused(data: str) -> None:
    with pytest.raises(ValidationError, match="the file is not base64"):
        ActionContext().read_file(FileRef(f"data:;base64,{data}"))


def png(edge: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((edge, edge), 50).save(buffer, "PNG")
    return buffer.getvalue()


def ref_of(content: bytes) -> FileRef:
    return FileRef("data:image/png;base64," + base64.b64encode(content).decode())


def test_a_picture_of_the_payload_is_read_whole() -> None:
    assert ActionContext().read_image(ref_of(png())).size == (8, 8)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no picture",
        png(64)[:200],
        png()[:-30],
        png(64)[:100] + b"\xff" * 60 + png(64)[160:],
        b"\x89PNG\r\n\x1a\n",
    ],
    ids=["nothing", "text", "cut", "without its end", "damaged", "a head alone"],
)
def test_one_that_cannot_be_read_is_the_callers_fault(content: bytes) -> None:
    with pytest.raises(ValidationError, match="no picture that can be read") as raised:
        ActionContext().read_image(ref_of(content))
    assert kind_of(raised.value) == "validation"


@given(st.binary(max_size=300), st.integers(0, 400))
def test_whatever_bytes_come_a_picture_is_read_or_refused(noise: bytes, at: int) -> None:
    whole = png()
    try:
        image = ActionContext().read_image(ref_of(whole[:at] + noise + whole[at + len(noise) :]))
    except ValidationError as error:
        assert "no picture that can be read" in str(error)
    else:
        assert image.size == (8, 8) or noise, "only the noise may have changed it"
