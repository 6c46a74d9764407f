"""Publications under way: each is answered once, whatever comes; and header blocks as they come off the wire."""

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.msg import Msg

from stoker.services.bus import publishing
from stoker.services.bus.errors import BusError, Conflict, NoAnswer, Refused, StreamFull
from stoker.services.bus.publishing import PubAck, Publisher, into
from stoker.services.bus.quick_client import QuickClient, _parse_headers
from tests.waiting import eventually

Sent = tuple[str, bytes, str, dict[str, str] | None]


class Publications:
    """A publisher on a client that is not connected; what it posts and how it is answered."""

    def __init__(self) -> None:
        self.client = QuickClient(lambda subject, error: None)
        self.client._max_payload = 100
        self.sent: list[Sent] = []
        self.answers: list[PubAck | BusError] = []
        self.publisher = Publisher(self.client, lambda *parts: self.sent.append(parts))

    def publish(self, payload: bytes = b"x", **options: object) -> None:
        self.publisher.publish("s.a", payload, self.answers.append, **options)  # type: ignore[arg-type]

    def answer(self, data: bytes, index: int = -1) -> None:
        reply = self.sent[index][2]
        self.publisher.take(Msg(_client=self.client, subject=reply, data=data))


def test_a_publication_that_is_stored_is_answered_with_its_number() -> None:
    found = Publications()
    found.publish()
    assert found.answers == []
    found.answer(b'{"stream": "S", "seq": 7}')
    assert found.answers == [PubAck("S", 7)]


@pytest.mark.parametrize(
    ("data", "kind", "says"),
    [
        (
            b'{"error": {"code": 400, "err_code": 10071, "description": "wrong last sequence: 1"}}',
            Conflict,
            "wrong last",
        ),
        (
            b'{"error": {"code": 503, "err_code": 10077, "description": "maximum messages exceeded"}}',
            StreamFull,
            "maximum",
        ),
        (b'{"error": {"code": 400, "err_code": 10058, "description": "no"}}', Refused, r"no \(10058\)"),
        (b'{"error": {}}', Refused, r"\(0\)"),
        (b"", NoAnswer, "s.a: JetStream does not answer"),
        (b"garbage", BusError, "s.a: unreadable answer of JetStream"),
        (b"\xff", BusError, "s.a: unreadable answer of JetStream"),
        (b'{"seq": "many"}', BusError, "s.a: unreadable answer of JetStream"),
    ],
)
def test_a_publication_that_is_not_stored_is_answered_with_why(
    data: bytes, kind: type[BusError], says: str
) -> None:
    found = Publications()
    found.publish()
    found.answer(data)
    [error] = found.answers
    assert type(error) is kind
    with pytest.raises(kind, match=says):
        raise error


@given(st.binary(max_size=40))
def test_whatever_comes_as_an_answer_is_an_answer(data: bytes) -> None:
    found = Publications()
    found.publish()
    found.answer(data)
    assert len(found.answers) == 1


def test_an_answer_that_nobody_waits_for_changes_nothing() -> None:
    found = Publications()
    found.publish()
    found.answer(b'{"seq": 1}')
    found.answer(b'{"seq": 2}')
    found.publisher.take(Msg(_client=found.client, subject=found.publisher.inbox + ".999", data=b"{}"))
    assert found.answers == [PubAck(seq=1)]


@given(order=st.permutations(range(5)))
def test_answers_find_their_publications_in_any_order(order: list[int]) -> None:
    found = Publications()
    answered: dict[int, PubAck | BusError] = {}
    for number in range(5):
        found.publisher.publish(
            f"s.{number}", b"x", lambda answer, number=number: answered.update({number: answer})
        )  # type: ignore[misc]
    for number in order:
        found.answer(msgspec.json.encode({"seq": number}), number)
    assert answered == {number: PubAck(seq=number) for number in range(5)}


@pytest.mark.parametrize(
    ("options", "headers"),
    [
        ({}, None),
        ({"message_id": "a"}, {"Nats-Msg-Id": "a"}),
        ({"expected": 0}, {"Nats-Expected-Last-Subject-Sequence": "0"}),
        ({"headers": {"A": "b"}, "message_id": "c"}, {"A": "b", "Nats-Msg-Id": "c"}),
    ],
)
def test_what_is_asked_of_the_server_is_in_the_headers(
    options: dict[str, object], headers: dict[str, str] | None
) -> None:
    found = Publications()
    found.publish(**options)
    [(subject, payload, reply, sent)] = found.sent
    assert (subject, payload, sent) == ("s.a", b"x", headers)
    assert reply.startswith(found.publisher.inbox + ".")


def test_the_callers_headers_are_not_changed() -> None:
    found, headers = Publications(), {"A": "b"}
    found.publish(headers=headers, message_id="c")
    assert headers == {"A": "b"}


def test_a_payload_of_the_limit_is_sent_and_one_byte_more_is_refused_at_once() -> None:
    found = Publications()
    found.publish(b"x" * 100)
    found.publish(b"x" * 101)
    assert len(found.sent) == 1
    [error] = found.answers
    assert isinstance(error, Refused) and str(error) == "101 bytes are over the server's limit of 100"


def test_at_the_end_everything_under_way_is_answered_and_nothing_twice() -> None:
    found = Publications()
    for _ in range(3):
        found.publish()
    found.answer(b'{"seq": 1}', 0)
    found.publisher.give_up()
    found.publisher.give_up()
    found.answer(b'{"seq": 2}', 1)
    assert found.answers[0] == PubAck(seq=1)
    assert [type(answer) for answer in found.answers[1:]] == [NoAnswer, NoAnswer]
    assert "the connection was lost before the answer came" in str(found.answers[1])


async def test_what_waits_too_long_is_answered_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "SWEEP_S", 0.001)
    found = Publications()
    monkeypatch.setattr(publishing, "PUBLISH_TIMEOUT_S", -1.0)
    found.publish()
    monkeypatch.setattr(publishing, "PUBLISH_TIMEOUT_S", 60.0)
    found.publish()
    sweeping = asyncio.create_task(found.publisher.sweep())
    await eventually(lambda: found.answers)
    found.answer(b'{"seq": 2}')
    sweeping.cancel()
    late, stored = found.answers
    assert isinstance(late, NoAnswer) and "s.a was not stored in" in str(late)
    assert stored == PubAck(seq=2)


async def test_a_future_is_set_once_and_one_that_was_given_up_stays_so() -> None:
    loop = asyncio.get_running_loop()
    good, bad, gone = (loop.create_future() for _ in range(3))
    into(good)(PubAck(seq=1))
    into(good)(NoAnswer("late"))
    into(bad)(Conflict("second"))
    gone.cancel()
    into(gone)(PubAck(seq=1))
    assert await good == PubAck(seq=1)
    with pytest.raises(Conflict, match="second"):
        await bad
    assert gone.cancelled()


NAMES = st.text("ABCdef-", min_size=1, max_size=8)
VALUES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]), max_size=12)


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_headers_are_read_as_they_were_written(headers: dict[str, str]) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    assert _parse_headers(f"NATS/1.0\r\n{lines}\r\n".encode()) == headers


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"NATS/1.0\r\n\r\n", {}),
        (b"NATS/1.0 503\r\n\r\n", {"Status": "503"}),
        (b"NATS/1.0 404 No Messages\r\n\r\n", {"Status": "404"}),
        (b"NATS/1.0\r\nA:b\r\nC:  d  \r\n\r\n", {"A": "b", "C": "d"}),
        (b"NATS/1.0\r\nA: b:c\r\n\r\n", {"A": "b:c"}),
        (b"NATS/1.0\r\nA\r\n\r\n", {"A": ""}),
        (b"NATS/1.0\r\nA: \xff\r\n\r\n", {"A": "\ufffd"}),
    ],
)
def test_a_header_block_of_somebody_else_is_read_too(raw: bytes, expected: dict[str, str]) -> None:
    assert _parse_headers(raw) == expected


@given(st.binary(min_size=1, max_size=40))
def test_no_header_block_ends_the_read_loop(raw: bytes) -> None:
    assert isinstance(_parse_headers(b"NATS/1.0" + raw), dict)
