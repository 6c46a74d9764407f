"""`/v1/usage`: what is written down by the leader, read by day and key, as JSON and CSV."""

import asyncio

import msgspec
import pytest

from stoker.schemas.keys import ApiKey
from stoker.schemas.usage import DayUse, ModelUse
from stoker.services.bus.streams import declare
from stoker.services.gateway.edge.access import current_key
from stoker.services.records.usage import add_use, read_uses
from tests.contract.conftest import Connect
from tests.fixtures.gateway_app import served

ONE = DayUse("2026-11-29", "k1", {"m": ModelUse(1, 0, 10, 5, 2.0)})
MORE = DayUse("2026-11-29", "k1", {"m": ModelUse(2, 1, 1, 1, 0.5), "n": ModelUse(1)})
OTHER = DayUse("2026-11-30", "k2", {"m": ModelUse(4)})


async def test_two_leaders_at_once_add_up(connected: Connect) -> None:
    async with connected() as bus, connected() as other:
        await declare(bus)
        await asyncio.gather(*(add_use(one, ONE) for one in (bus, other, bus)))
        [found] = await read_uses(bus)
        assert found.models == {"m": ModelUse(3, 0, 30, 15, 6.0)}


async def test_uses_are_read_by_day_and_key_and_as_csv(connected: Connect) -> None:
    async with connected() as bus, connected() as other, served(bus, other) as stand:
        for use in (ONE, MORE, OTHER):
            await add_use(bus, use)
        whole = (await stand.ask("GET", "/v1/usage")).json()
        assert [(row["day"], row["key"], row["model"], row["jobs"]) for row in whole["rows"]] == [
            ("2026-11-29", "k1", "m", 3), ("2026-11-29", "k1", "n", 1), ("2026-11-30", "k2", "m", 4)
        ]  # fmt: skip
        assert (whole["total"]["jobs"], whole["total"]["answer_tokens"], whole["total"]["device_s"]) == (
            8,
            6,
            2.5,
        )
        later = (await stand.ask("GET", "/v1/usage?since=2026-11-30")).json()
        assert [row["key"] for row in later["rows"]] == ["k2"]
        mine = await stand.ask("GET", "/v1/usage?key=k1&until=2026-11-29&format=csv")
        assert mine.headers["content-type"].startswith("text/csv")
        assert mine.body.decode().splitlines() == [
            "day,key,name,model,jobs,failed,prompt_tokens,answer_tokens,device_s",
            "2026-11-29,k1,,m,3,1,11,6,2.5",
            "2026-11-29,k1,,n,1,0,0,0,0.0",
        ]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("since=yesterday", "since"),
        ("until=13", "until"),
        ("format=xml", "format"),
        ("since=2026-11-30&until=2026-11-29", "until"),
    ],
)
async def test_what_is_no_day_is_refused(connected: Connect, query: str, field: str) -> None:
    async with connected() as bus, connected() as other, served(bus, other) as stand:
        answer = await stand.ask("GET", f"/v1/usage?{query}")
        assert (answer.status, answer.json()["field"]) == (400, field)


async def test_who_only_uses_models_sees_its_own(connected: Connect) -> None:
    async with connected() as bus, connected() as other, served(bus, other) as stand:
        for use in (ONE, OTHER):
            await add_use(bus, use)
        key = ApiKey("k2", "two", "0" * 64, 1.0)
        stand.gateway.key_changed("k2", key)
        for role, keys in (("use", ["k2"]), ("operate", ["k1", "k2"])):
            token = current_key.set(msgspec.structs.replace(key, role=role))
            try:
                rows = (await stand.ask("GET", "/v1/usage?key=" + ("k1" if role == "use" else ""))).json()[
                    "rows"
                ]
            finally:
                current_key.reset(token)
            assert [row["key"] for row in rows] == keys
            assert rows[-1]["name"] == "two"
