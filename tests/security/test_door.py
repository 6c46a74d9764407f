"""Web pages of other sites, and names that are not the gateway's. Before, both were served."""

import http.client
import socket
import threading
from pathlib import Path

import httpx
import pytest

from stoker.services.gateway.edge.door import Door, listed, own_names
from stoker.services.gateway.edge.problems import RequestError
from tests.conftest import SYNTHETIC, System

LOCAL, OPEN = (
    Door(is_local=True, has_keys=False, names=frozenset({"mybox"})),
    Door(is_local=False, has_keys=False),
)
KEYED = Door(is_local=False, has_keys=True)
CHAT = {"model": "echo", "messages": [{"role": "user", "content": "x"}]}


def asked(door: Door, host: str = "localhost:8000", method: str = "POST", **headers: str) -> int:
    """200, or the status with which a request is refused."""
    given = {b"host": host.encode()} | {
        name.replace("_", "-").encode(): value.encode() for name, value in headers.items()
    }
    try:
        door.check_host(host.encode())
        door.check_origin(method, given)
    except RequestError as error:
        return error.status
    return 200


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LocalHost:8000",
        "a.localhost",
        "127.0.0.1:8000",
        "127.9.9.9",
        "[::1]:8000",
        "mybox:1",
    ],
)
def test_a_local_gateway_answers_to_its_own_names(host: str) -> None:
    assert asked(LOCAL, host) == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "8.8.8.8", "notlocalhost",
     "localhost@evil.example", "[::2]", "127.0.0.1:80:80", " "],
)  # fmt: skip
def test_and_to_no_other(host: str) -> None:
    assert asked(LOCAL, host) == 403


def test_a_name_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "gethostname", lambda: "MyBox")
    monkeypatch.setattr(socket, "getfqdn", lambda: "mybox.example" if answered.wait(60) else "")
    try:
        assert own_names() == {"mybox"}
    finally:
        answered.set()
    assert own_names() == {"mybox", "mybox.example"}


def test_a_request_needs_a_host() -> None:
    assert asked(LOCAL, "") == 400


def test_where_others_can_reach_it_without_keys_names_that_can_be_rebound_are_refused() -> None:
    assert {asked(OPEN, host) for host in ("10.0.0.7:8000", "gateway:8000", "[fd00::1]", "localhost")} == {200}
    assert {asked(OPEN, host) for host in ("evil.example", "gateway.example:8000")} == {403}


def test_with_keys_any_name_will_do_unless_some_are_named() -> None:
    assert asked(KEYED, "models.example") == 200
    named = Door(is_local=False, has_keys=True, hosts=listed("Models.Example, "))
    assert (asked(named, "models.example:443"), asked(named, "evil.example"), asked(named, "10.0.0.7")) == (
        200,
        403,
        200,
    )
    assert asked(Door(is_local=True, has_keys=False, hosts=listed("*")), "evil.example") == 200


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://localhost:3000", "http://localhost", "https://localhost:8000.evil.example",
     "file://", "http://", "garbage", "chrome-extension://abc"],
)  # fmt: skip
def test_a_page_of_another_origin_may_not_ask(origin: str) -> None:
    assert asked(LOCAL, origin=origin) == 403
    assert asked(LOCAL, method="GET", origin=origin) == 403


@pytest.mark.parametrize(
    "origin", ["http://localhost:8000", "https://LOCALHOST:8000", "app://obsidian", "tauri://localhost"]
)
def test_a_page_of_ours_and_a_program_may(origin: str) -> None:
    assert asked(LOCAL, origin=origin) == 200


def test_what_a_browser_says_of_another_site_counts_where_it_sends_no_origin() -> None:
    assert asked(LOCAL, method="GET", sec_fetch_site="cross-site", sec_fetch_mode="no-cors") == 403
    assert asked(LOCAL, method="POST", sec_fetch_site="cross-site", sec_fetch_mode="navigate") == 403
    assert asked(LOCAL, method="GET", sec_fetch_site="cross-site", sec_fetch_mode="navigate") == 200, "a link"
    assert asked(LOCAL, method="GET", sec_fetch_site="same-origin", sec_fetch_mode="cors") == 200


def test_an_origin_that_is_named_may_ask_and_is_told_so() -> None:
    door = Door(is_local=True, has_keys=False, origins=listed("https://app.example/, http://localhost:3000"))
    assert asked(door, origin="https://app.example") == 200
    assert asked(door, origin="https://other.example") == 403
    headers = {b"host": b"localhost", b"origin": b"https://app.example", b"access-control-request-method": b"POST",
               b"access-control-request-headers": b"authorization, content-type"}  # fmt: skip
    told = dict(door.preflight(headers))
    assert told[b"access-control-allow-origin"] == b"https://app.example"
    assert told[b"access-control-allow-headers"] == b"authorization, content-type"
    assert b"access-control-allow-credentials" not in told
    assert door.preflight(headers | {b"origin": b"https://other.example"}) == []
    assert dict(LOCAL.cors(headers)) == {}


# On a running gateway -----------------------------------------------------------------------------


def test_a_running_gateway_serves_no_page_of_another_site(synthetic: System) -> None:
    url = synthetic.url + "/v1/chat/completions"
    evil = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    answer = httpx.post(url, content=b"{}", headers=evil)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
    answer = httpx.post(
        synthetic.url + "/v1/jobs", json={"model": "echo", "input": {}}, headers={"Host": "evil.example"}
    )
    assert (answer.status_code, answer.json()["field"]) == (403, "Host")
    assert httpx.post(url, json=CHAT, headers={"Origin": synthetic.url}).status_code == 200


def test_a_request_without_a_host_is_refused(synthetic: System) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", synthetic.port, timeout=10)
    connection.putrequest("GET", "/v1/models", skip_host=True)
    connection.endheaders()
    assert connection.getresponse().status == 400


@pytest.mark.parametrize(
    "kind", ["text/plain", "multipart/form-data; boundary=x", "application/xml", "text/json"]
)
def test_where_json_is_expected_another_type_is_415(synthetic: System, kind: str) -> None:
    for path, body in (
        ("/v1/chat/completions", b'{"model":"echo"}'),
        ("/v1/jobs", b"{}"),
        ("/api/modes/switch", b"{}"),
    ):
        answer = httpx.post(synthetic.url + path, content=body, headers={"Content-Type": kind})
        assert answer.status_code == 415, path
        assert "application/json" in answer.text


def test_json_has_several_names_and_curl_need_not_say_it(synthetic: System) -> None:
    url = synthetic.url + "/v1/completions"
    body = b'{"model": "echo", "prompt": "x"}'
    for kind in (
        "application/json; charset=utf-8",
        "application/vnd.api+json",
        "application/x-www-form-urlencoded",
    ):
        assert httpx.post(url, content=body, headers={"Content-Type": kind}).status_code == 200
    form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": synthetic.url}
    assert httpx.post(url, content=body, headers=form).status_code == 415, "a browser's form"


def test_every_answer_says_what_browsers_must_not_do_with_it(synthetic: System) -> None:
    for path in ("/", "/v1/models", "/schema", "/nothing", "/metrics", "/static/app.js"):
        headers = httpx.get(synthetic.url + path, follow_redirects=True).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["x-frame-options"] == "DENY"
        assert "content-security-policy" in headers


def test_no_page_loads_anything_from_elsewhere(synthetic: System) -> None:
    for path in ("/", "/schema"):
        page = httpx.get(synthetic.url + path).text
        assert "https://" not in page.replace("http://www.w3.org", ""), path
    for file in ("swagger-ui.css", "swagger-ui-bundle.js", "schema.js"):
        assert len(httpx.get(f"{synthetic.url}/static/{file}").content) > 20


def test_a_page_that_is_named_is_answered_with_its_origin(tmp_path: Path) -> None:
    system = System(
        tmp_path, SYNTHETIC, "--cors-origin", "https://app.example", "--allowed-hosts", "models.example"
    )
    try:
        system.wait_ready()
        page = {"Origin": "https://app.example", "Host": "models.example"}
        preflight = page | {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        answer = httpx.options(system.url + "/v1/chat/completions", headers=preflight)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (
            204,
            "https://app.example",
        )
        answer = httpx.post(system.url + "/v1/chat/completions", json=CHAT, headers=page)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (
            200,
            "https://app.example",
        )
        assert (
            httpx.get(system.url + "/v1/models", headers={"Origin": "https://evil.example"}).status_code == 403
        )
    finally:
        system.stop()
