"""The table of routes: what a path finds, what another method is told, what errors become."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.openai import ErrorAnswer
from stoker.services.bus.errors import NoAnswer
from stoker.services.gateway.app import GROUPS, ROUTES, create_app
from stoker.services.gateway.edge.exchange import MAX_BODY_BYTES, Exchange
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.edge.routing import Route, Router, get, post, with_routes
from stoker.services.process.tasks import LimitExceeded
from stoker.services.records.blobs import BlobGone
from tests.fixtures.gateway_app import Answered, Client


def named(method: str, *paths: str) -> Route:
    async def handle(_: Any, exchange: Exchange) -> None:
        await exchange.answer({"path": exchange.path})

    return Route(method=method, paths=paths, handle=handle, name="x", summary="x")


ROUTER = Router(
    [
        named("GET", "/"),
        named("GET", "/v1/jobs"),
        named("POST", "/v1/jobs"),
        named("GET", "/v1/jobs/{job}"),
        named("GET", "/v1/jobs/{job}/files/{index:int}"),
        named("GET", "/v1/models/{name:path}"),
        named("GET", "/{deployment}/v1/schema"),
    ]
)


@pytest.mark.parametrize(
    ("path", "methods", "parameters"),
    [
        ("/", {"GET"}, {}),
        ("/v1/jobs", {"GET", "POST"}, {}),
        ("/v1/jobs/", {"GET", "POST"}, {}),
        ("//v1//jobs", {"GET", "POST"}, {}),
        ("/v1/jobs/a b", {"GET"}, {"job": "a b"}),
        ("/v1/jobs/a/files/7", {"GET"}, {"job": "a", "index": 7}),
        ("/v1/jobs/a/files/-7", {"GET"}, {"job": "a", "index": -7}),
        ("/v1/jobs/a/files/7x", set(), {}),
        ("/v1/jobs/a/files/²", set(), {}),
        ("/v1/models/org/name:tag", {"GET"}, {"name": "org/name:tag"}),
        ("/v1/models", set(), {}),
        ("/sdxl/v1/schema", {"GET"}, {"deployment": "sdxl"}),
        ("/v1/v1/schema", set(), {}),
        ("/nothing", set(), {}),
    ],
)
def test_a_path_finds_its_routes(path: str, methods: set[str], parameters: dict[str, Any]) -> None:
    routes, found = ROUTER.find(path)
    assert routes.keys() == methods
    assert not methods or found == parameters


def test_two_routes_of_one_method_and_path_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="GET /a has two routes"):
        Router([named("GET", "/a"), named("GET", "/a")])
    with pytest.raises(ValueError, match="another name"):
        Router([named("GET", "/a/{x}"), named("PUT", "/a/{y}")])


@given(st.lists(st.text(st.characters(exclude_characters="/"), max_size=5), max_size=6))
def test_whatever_the_path_finding_it_raises_nothing(parts: list[str]) -> None:
    ROUTER.find("/" + "/".join(parts))


def test_every_route_of_the_gateway_is_found_by_its_own_template() -> None:
    router = Router(ROUTES)
    assert len(ROUTES) >= 40
    assert len(ROUTES) == sum(len(group.ROUTES) for group in GROUPS) + len(["/schema", "/schema/openapi.json"])
    for route in ROUTES:
        for path in route.paths:
            filled = "/".join("1" if part.startswith("{") else part for part in path.split("/"))
            assert router.find(filled)[0][route.method] is route


# Over ASGI ----------------------------------------------------------------------------------------


async def ask(app: Any, method: str, path: str, body: Any = None, **headers: str) -> Answered:
    return await Client(app, method, path, body, **headers).run()


async def test_another_method_is_told_which_there_are() -> None:
    app = create_app(None)  # type: ignore[arg-type]  # nothing below touches the gateway
    answer = await ask(app, "DELETE", "/v1/jobs")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
    assert answer.json()["type"] == "urn:stoker:method_not_allowed"
    answer = await ask(app, "GET", "/v1/chat/completions")
    assert (answer.status, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    answer = await ask(app, "OPTIONS", "/v1/jobs/x")
    assert (answer.status, answer.headers["allow"], answer.body) == (
        204,
        "DELETE, GET, HEAD, OPTIONS, PUT",
        b"",
    )


async def test_an_unknown_path_is_answered_in_the_dialect_of_its_place() -> None:
    app = create_app(None)  # type: ignore[arg-type]
    answer = await ask(app, "GET", "/nothing/here")
    assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")
    answer = await ask(app, "GET", "/openai/v1/nothing")
    assert answer.status == 404
    assert json.loads(answer.body).keys() == {"error"}
    assert ErrorAnswer.__struct_fields__ == ("error",)


async def test_nothing_beside_the_page_and_the_document_is_below_schema() -> None:
    app = create_app(None)  # type: ignore[arg-type]
    page = await ask(app, "GET", "/schema")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert (await ask(app, "HEAD", "/schema/")).status == 200
    assert (await ask(app, "GET", "/schema/openapi.yaml")).status == 404
    assert (await ask(app, "POST", "/schema")).status == 405


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (RequestError(409, "no", retry_after_s=7), 409, "7"),
        (NoAnswer("NATS is away"), 503, "1"),
        (LimitExceeded("too slow"), 503, "1"),
        (BlobGone("no longer kept"), 404, None),
        (KeyError("a mistake of ours"), 500, None),
    ],
)
async def test_every_error_has_one_meaning(error: Exception, status: int, retry_after: str | None) -> None:
    @get("/wrong", summary="x")
    async def wrong(_: Any, __: Exchange) -> None:
        raise error

    app = with_routes(Router([wrong]), None)  # type: ignore[arg-type]
    answer = await ask(app, "GET", "/wrong")
    assert (answer.status, answer.headers.get("retry-after")) == (status, retry_after)
    assert answer.headers["content-type"] == "application/problem+json"
    assert "mistake" not in answer.json()["detail"]


async def test_an_error_after_the_answer_has_begun_does_not_begin_another() -> None:
    @get("/wrong", summary="x")
    async def wrong(_: Any, exchange: Exchange) -> None:
        await exchange.answer("fine")
        raise KeyError

    answer = await ask(with_routes(Router([wrong]), None), "GET", "/wrong")  # type: ignore[arg-type]
    assert (answer.status, answer.body) == (200, b'"fine"')


async def test_a_body_that_is_too_large_is_refused_and_others_come_whole() -> None:
    @post("/echo", summary="x")
    async def echo(_: Any, exchange: Exchange) -> None:
        await exchange.answer(len(await exchange.body()))

    app = with_routes(Router([echo]), None)  # type: ignore[arg-type]
    assert (await ask(app, "POST", "/echo", bytes(MAX_BODY_BYTES))).body == str(MAX_BODY_BYTES).encode()
    answer = await ask(app, "POST", "/echo", bytes(MAX_BODY_BYTES + 1))
    assert (answer.status, answer.json()["type"]) == (413, "urn:stoker:body_too_large")


@pytest.mark.parametrize(
    ("query", "field"),
    [("limit=x", "limit"), ("limit=0", "limit"), ("limit=1001", "limit"), ("limit=1.5", "limit")],
)
async def test_a_query_that_does_not_fit_names_its_field(query: str, field: str) -> None:
    app = create_app(None)  # type: ignore[arg-type]
    answer = await ask(app, "GET", f"/v1/events?{query}")
    assert (answer.status, answer.json()["field"]) == (400, field)


async def test_of_two_query_fields_of_one_name_the_last_counts() -> None:
    app = create_app(None)  # type: ignore[arg-type]
    answer = await ask(app, "GET", "/v1/events?limit=5&limit=x")
    assert answer.status == 400
