"""What operators look after: whose key this is, the keys there are, and what could not be handled."""

from typing import Any

import msgspec

from stoker.schemas.keys import ApiKey, Role
from stoker.services.gateway.edge.access import current_key
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.routing import get, post_body
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.request_rules import split_adapter
from stoker.services.gateway.jobs.unloading import Unloaded, unload
from stoker.services.records.quarantine import list_quarantined, shown


class OwnKey(msgspec.Struct, frozen=True):
    """The key of the request, and what it may do. id: "" where none is needed and none was sent."""

    id: str
    name: str
    role: Role
    models: tuple[str, ...] = ()


class KeyShown(msgspec.Struct, frozen=True):
    """A valid key without its secret, which nobody keeps. 0 = no limit."""

    id: str
    name: str
    role: Role
    created_at: float
    models: tuple[str, ...]
    priority: int
    weight: float
    requests_per_minute: int
    requests_per_day: int
    tokens_per_minute: int
    device_seconds_per_day: float
    concurrency: int


class Keys(msgspec.Struct, frozen=True):
    """is_required: whether requests without a key are refused."""

    keys: tuple[KeyShown, ...]
    is_required: bool


class QuarantineEntry(msgspec.Struct, frozen=True):
    number: int
    message: Any


class QuarantineList(msgspec.Struct, frozen=True):
    """Oldest first."""

    entries: tuple[QuarantineEntry, ...]


@get("/v1/keys/self", summary="Whose key this is, and its role", answers=OwnKey)
async def own_key(_: Gateway, exchange: Exchange) -> None:
    key = current_key.get()
    if key is None:
        await exchange.answer(OwnKey("", "", "admin"))
    else:
        await exchange.answer(OwnKey(key.id, key.name, key.role, key.models))


@get("/v1/keys", summary="The API keys, without their secrets", answers=Keys, role="admin")
async def show_keys(gateway: Gateway, exchange: Exchange) -> None:
    keys = sorted(gateway.access.keys(), key=lambda key: key.created_at)
    await exchange.answer(Keys(tuple(map(_shown, keys)), gateway.access.is_required))


def _shown(key: ApiKey) -> KeyShown:
    return KeyShown(**{name: getattr(key, name) for name in KeyShown.__struct_fields__})


@get("/v1/quarantine", summary="What could not be handled, and why", answers=QuarantineList, role="operate")
async def show_quarantine(gateway: Gateway, exchange: Exchange) -> None:
    found = await list_quarantined(gateway.bus)
    await exchange.answer(QuarantineList(tuple(QuarantineEntry(number, shown(item)) for number, item in found)))


class UnloadRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: str


class UnloadAnswer(msgspec.Struct, frozen=True):
    """workers: those that had the model in memory, each with the reason where it still has it."""

    model: str
    workers: tuple[Unloaded, ...]


@post_body(
    "/v1/unload",
    summary="Take a model out of the memory of workers",
    asks=UnloadRequest,
    answers=UnloadAnswer,
    role="operate",
)
async def unload_model(gateway: Gateway, exchange: Exchange, asked: UnloadRequest) -> None:
    model, _ = split_adapter(asked.model, gateway.models)
    await exchange.answer(UnloadAnswer(model.name, await unload(gateway, model)))


ROUTES = [own_key, show_keys, show_quarantine, unload_model]
