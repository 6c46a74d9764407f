"""Heartbeats on a real NATS server: a worker says changes once a leader reads them, and readers have whole ones."""

from stoker.schemas import wire
from stoker.schemas.heartbeats import HeartbeatChange, Solicitation
from stoker.schemas.subjects import ANY, last_name
from stoker.schemas.workers import Heartbeat, JobCommand
from stoker.services.bus.heartbeats import HeartbeatReader
from stoker.services.worker.__main__ import _heard
from tests.contract.conftest import Connect
from tests.contract.worker.agents import spec_of, working
from tests.waiting import eventually

SLOW = spec_of(tokens=1000, token_interval_s=0.05)
MODELS = {f"model-{number}": spec_of(memory_mb=5 + number) for number in range(12)}


async def test_a_worker_says_changes_while_a_leader_reads_them_and_every_reader_has_all_of_it(
    connected: Connect,
) -> None:
    said: list[str] = []
    read: list[Heartbeat] = []
    async with connected() as bus, connected() as other, working(bus, models=MODELS | {"m": SLOW}) as worker:
        leader = HeartbeatReader(other, read.append, leads=True)
        noting = [
            (other.subjects.every(word, ANY), lambda message: said.append(message.subject.split(".")[-2]))
            for word in ("heartbeat", "change")
        ]
        async with bus.listening(*_heard(bus, worker.agent)), other.listening(*noting):
            worker.agent.heartbeats.changed()
            await eventually(lambda: "heartbeat" in said)
            assert "change" not in said, "nobody has said that it reads them"
            async with other.listening(*leader.subscriptions()):
                worker.assign("a", SLOW)
                await eventually(lambda: "change" in said)
                await eventually(
                    lambda: [one.job for one in read[-1].running] == ["a"] and read[-1].vram_models
                )
                assert read[-1].models == worker.beat.models
                late: list[Heartbeat] = []
                async with other.listening(*HeartbeatReader(other, late.append).subscriptions()):
                    worker.agent.heartbeats.changed()
                    await eventually(lambda: late, 1.5, "the whole one that it has asked for")
                    assert late[-1].models == worker.beat.models
                worker.agent.cancel(JobCommand("a"))
                await eventually(lambda: not read[-1].running)
            other.post(other.subjects.solicit(), b"{}")  # a scheduler of the version before
            await eventually(lambda: worker.beat.may_change)
            said.clear()
            worker.agent.heartbeats.changed()
            await eventually(lambda: len(said) > 1)
            assert set(said) == {"heartbeat"}


async def test_what_names_another_worker_or_cannot_be_read_is_not_believed(connected: Connect) -> None:
    read: list[Heartbeat] = []
    doubts: list[str] = []
    async with connected() as bus:
        reader = HeartbeatReader(bus, read.append, not_known=lambda: doubts.append("x"))
        asked: list[str] = []
        asking = (f"{bus.subjects.solicit()}.*", lambda message: asked.append(last_name(message.subject)))
        async with bus.listening(*reader.subscriptions(), asking):
            bus.tell(bus.subjects.change("w"), HeartbeatChange("other", 1.0, seq=2, base=1))
            bus.post(bus.subjects.change("w"), b"[]")
            await eventually(lambda: len(doubts) == 1)
            for seq in (2, 3, 4):
                bus.tell(bus.subjects.change("w"), HeartbeatChange("w", 1.0, seq=seq, base=1))
            await eventually(lambda: len(doubts) == 4 and asked)
            await bus.client.flush()
            assert (asked, read) == (["w"], [])


def test_the_question_of_the_version_before_promises_nothing() -> None:
    assert wire.decode(Solicitation, b"{}").reads_changes is False
    assert wire.decode(Solicitation, wire.encode(Solicitation(None))).reads_changes is None
