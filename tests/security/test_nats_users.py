"""What each NATS user can do: its work, and nothing else. Each attack here went through before.

The threat: somebody has the credential of one worker, and speaks NATS directly.
"""

import asyncio
import json
import random
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from stoker.schemas import subjects as names
from stoker.schemas.keys import ApiKey
from stoker.schemas.subjects import Subjects
from stoker.services.bus.connection import open_bus
from stoker.services.bus.errors import CannotConnect
from stoker.services.bus.permissions import services, users_conf, with_worker, without_worker, worker_role
from stoker.services.records.keys import digest, new_secret, put_key
from tests.conftest import ROOT, wait_for
from tests.security.installed import Installation, Intruder, complete, installed, intruding
from tests.waiting import eventually

SUBJECTS = Subjects()
WORKERS = ("w1", "w2", "w3")
TENANTS = 20


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("installed"), *WORKERS, gateway=("--require-keys",)) as found:
        yield found


@pytest.fixture(scope="module")
def ada(system: Installation) -> dict[str, str]:
    """The header of somebody who operates it."""
    headers = system.key("ada", "--role", "operate")
    wait_for(lambda: complete(system.url, headers, "x").status_code == 200, 30, "a first answer")
    return headers


async def as_worker(system: Installation, name: str = "w1") -> Intruder:
    return await intruding(system.settings(name), f"_INBOX.worker.{name}")


def test_the_file_of_users_is_the_table_of_permissions() -> None:
    assert (ROOT / "deploy" / "nats" / "users.conf").read_text() == users_conf()


def test_every_service_does_its_work_and_asks_for_nothing_that_it_may_not(
    system: Installation, ada: dict[str, str]
) -> None:
    url = system.url
    asked = [{"role": "user", "content": "x"}]
    body = {"model": "slow", "messages": asked, "stream": True, "max_tokens": 8}
    streamed = httpx.post(f"{url}/v1/chat/completions", json=body, headers=ada, timeout=20).text
    assert streamed.count("data:") > 8, streamed
    large = {"model": "echo", "input": {"prompt": "x"}}
    assert httpx.put(f"{url}/v1/jobs/own", json=large, headers=ada).status_code == 202
    wait_for(lambda: httpx.get(f"{url}/v1/jobs/own", headers=ada).json()["status"] == "completed", 10)
    assert "completed" in httpx.get(f"{url}/v1/jobs/own/events", headers=ada, timeout=10).text
    assert [job["id"] for job in httpx.get(f"{url}/v1/jobs", headers=ada).json()["jobs"]].count("own") == 1
    assert httpx.get(f"{url}/v1/jobs/none", headers=ada).status_code == 404
    slow = httpx.post(f"{url}/v1/jobs", json={"model": "slow", "input": {"prompt": "x"}}, headers=ada).json()[
        "id"
    ]
    wait_for(lambda: httpx.get(f"{url}/v1/jobs/{slow}", headers=ada).json()["status"] == "running", 10)
    assert httpx.post(f"{url}/v1/jobs/{slow}/cancel", headers=ada).status_code in (200, 202)
    a_batch_is_done_and_its_files_are_read_and_deleted(url, ada)
    wait_for(lambda: httpx.get(f"{url}/v1/jobs/{slow}", headers=ada).json()["status"] == "cancelled", 10)
    sse = ada | {"Accept": "text/event-stream"}
    with httpx.stream("GET", f"{url}/v1/events", headers=sse, timeout=10) as events:
        assert next(line for line in events.iter_lines() if line.startswith("data:"))
    system.stop("w3")
    system.worker("w3")
    assert system.violations() == []


def a_batch_is_done_and_its_files_are_read_and_deleted(url: str, ada: dict[str, str]) -> None:
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/completions",
        "body": {"model": "echo", "prompt": "x"},
    }
    sent = httpx.post(
        f"{url}/v1/files", files={"file": json.dumps(line).encode()}, data={"purpose": "batch"}, headers=ada
    ).json()
    body = {"input_file_id": sent["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
    batch = f"{url}/v1/batches/{httpx.post(f'{url}/v1/batches', json=body, headers=ada).json()['id']}"
    wait_for(lambda: httpx.get(batch, headers=ada).json()["status"] == "completed", 10)
    output = httpx.get(batch, headers=ada).json()["output_file_id"]
    assert '"custom_id":"a"' in httpx.get(f"{url}/v1/files/{output}/content", headers=ada).text
    assert len(httpx.get(f"{url}/v1/batches", headers=ada).json()["data"]) == 1
    for file in (sent["id"], output):
        assert httpx.delete(f"{url}/v1/files/{file}", headers=ada).json()["deleted"]


# What worked before -------------------------------------------------------------------------------

STREAM = {"name": "evil", "subjects": ["evil"], "republish": {"src": "evil", "dest": "$KV.stoker_keys.mine"}}
PUSHED = {"stream_name": "KV_stoker_catalog", "config": {"deliver_subject": "$KV.stoker_keys.mine"}}
ADMINISTRATION = {
    "a stream that republishes into the keys": ("STREAM.CREATE.evil", STREAM),
    "a stream that mirrors the keys": ("STREAM.CREATE.evil", {"name": "evil", "mirror": {"name": "KV_stoker_keys"}}),
    "a stream that sources the secrets": (
        "STREAM.CREATE.evil", {"name": "evil", "sources": [{"name": "KV_stoker_secrets"}]}
    ),
    "a stream over other people's inboxes": ("STREAM.CREATE.evil", {"name": "evil", "subjects": ["_INBOX.>"]}),
    "a job stream that keeps one job": ("STREAM.UPDATE.STOKER_JOBS", {"name": "STOKER_JOBS", "max_msgs": 1}),
    "no more job stream": ("STREAM.DELETE.STOKER_JOBS", {}),
    "an empty job stream": ("STREAM.PURGE.STOKER_JOBS", {}),
    "a snapshot of the keys": ("STREAM.SNAPSHOT.KV_stoker_keys", {"deliver_subject": "_INBOX.worker.w1.x"}),
    "a job of the stream": ("STREAM.MSG.GET.STOKER_JOBS", {"seq": 1}),
    "a job, deleted": ("STREAM.MSG.DELETE.STOKER_JOBS", {"seq": 1}),
    "the keys": ("DIRECT.GET.KV_stoker_keys", {"seq": 1}),
    "the secrets": ("DIRECT.GET.KV_stoker_secrets", {"seq": 1}),
    "the secrets, by name": ("DIRECT.GET.KV_stoker_secrets.$KV.stoker_secrets.seal", {}),
    "the results": ("DIRECT.GET.STOKER_RESULTS", {"seq": 1}),
    "a result of anybody": ("DIRECT.GET.STOKER_RESULTS.stoker.result.=.*", {}),
    "a consumer of jobs": ("CONSUMER.CREATE.STOKER_JOBS", {"stream_name": "STOKER_JOBS", "config": {}}),
    "a consumer that writes the catalog into the keys": ("CONSUMER.CREATE.KV_stoker_catalog", PUSHED),
    "the names of all streams": ("STREAM.NAMES", {}),
    "the account": ("INFO", {}),
    "the leader of a stream, deposed": ("STREAM.LEADER.STEPDOWN.STOKER_JOBS", {}),
}  # fmt: skip
PUBLISHED = [
    "stoker.jobs.echo", "stoker.verdict.1.own", "stoker.ended.own", "stoker.cancel.own", "stoker.webhook.own",
    "stoker.worker.w2.assign", "stoker.worker.w1.assign", "stoker.heartbeat.w2", "stoker.finished.w2",
    "stoker.change.w2", "stoker.described.w2", "stoker.solicit.w2", "stoker.queue.echo", "stoker.events.failed.x", "stoker.disk", "stoker.solicit",
    "stoker.scheduler.jobs", "stoker.scheduler.job", "stoker.scheduler.explain", "stoker.result.gw.own",
    "$KV.stoker_keys.mine", "$KV.stoker_catalog.echo", "$KV.stoker_catalog.schema.echo", "$KV.stoker_leases.scheduler",
    "$KV.stoker_replicas.echo", "$KV.stoker_secrets.seal", "$O.stoker_blobs.M.x", "_INBOX.gateway.x", "$JS.ACK.STOKER_JOBS.x",
]  # fmt: skip
HEARD = [
    ">", "_INBOX.>", "_INBOX.gateway.>", "_INBOX.worker.w2.>", "stoker.>", "stoker.jobs.*", "stoker.out.*.*",
    "stoker.ended.*", "stoker.result.*.*", "stoker.worker.*.*", "stoker.worker.w2.assign", "stoker.heartbeat.*",
    "stoker.change.*", "stoker.solicit.*",
    "stoker.blob.*.*", "stoker.sent", "stoker.cancel.*", "$KV.stoker_keys.>", "$KV.stoker_secrets.>", "$JS.>", "$SYS.>",
]  # fmt: skip


@pytest.mark.parametrize("attack", ADMINISTRATION)
async def test_a_worker_administers_nothing(system: Installation, ada: dict[str, str], attack: str) -> None:
    subject, body = ADMINISTRATION[attack]
    intruder = await as_worker(system)
    assert await intruder.api(subject, json.dumps(body).encode()) == b""
    assert any("permissions violation for publish" in error for error in intruder.refused)
    await intruder.client.close()


async def test_a_worker_says_nothing_in_the_name_of_others(system: Installation) -> None:
    intruder = await as_worker(system)
    assert [subject for subject in PUBLISHED if await intruder.may_publish(subject)] == []
    await intruder.client.close()


async def test_a_worker_hears_nothing_that_is_for_others(system: Installation, ada: dict[str, str]) -> None:
    intruder = await as_worker(system)
    for subject in HEARD:
        assert any("violation" in error for error in await intruder.listen(subject)), subject
    await intruder.client.close()


async def test_the_launched_workers_user_administers_nothing_either(system: Installation) -> None:
    intruder = await intruding(system.settings("worker"), "_INBOX.worker.any")
    for subject, body in ADMINISTRATION.values():
        assert await intruder.api(subject, json.dumps(body).encode(), 0.2) == b"", subject
    allowed = [subject for subject in PUBLISHED if await intruder.may_publish(subject)]
    assert allowed == ["stoker.heartbeat.w2", "stoker.finished.w2", "stoker.change.w2", "stoker.described.w2"]
    await intruder.client.close()


# Speaking of other people's jobs ------------------------------------------------------------------

FORGED = {
    "event": "completed", "job": "", "model": "slow", "created_at": 1.0, "finished_at": 2.0, "attempt": 1, "term": 9,
    "output": {"kind": "text", "text": "FORGED", "finish_reason": "stop",
               "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}},
}  # fmt: skip


async def test_a_client_asks_by_message_and_can_do_nothing_else(
    system: Installation, ada: dict[str, str]
) -> None:
    client = await intruding(system.settings("client"), "_INBOX.client")
    body = {"model": "echo", "prompt": "x"}
    asked = json.dumps({"path": "/v1/completions", "body": body, "metadata": {"n": 1}}).encode()
    answer = json.loads((await client.client.request("stoker.requests", asked, timeout=20, headers=ada)).data)
    assert (answer["status_code"], answer["metadata"]) == (200, {"n": 1}), answer
    without = json.loads((await client.client.request("stoker.requests", asked, timeout=20)).data)
    assert (without["status_code"], without["body"]["error"]["code"]) == (401, "invalid_api_key")
    for reply in ("stoker.cancel.own", "$KV.stoker_catalog.echo", "_INBOX.scheduler.x", "_INBOX.gateway.x"):
        await client.client.publish("stoker.requests", asked, reply=reply)
    assert [subject for subject in PUBLISHED if await client.may_publish(subject)] == []
    for subject in (*HEARD, "stoker.requests", "$SRV.PING"):
        assert any("violation" in error for error in await client.listen(subject)), subject
    for subject, sent in ADMINISTRATION.values():
        assert await client.api(subject, json.dumps(sent).encode(), 0.05) == b"", subject
    log = (system.folder / "gateway.log").read_text()
    assert log.count("is no inbox") == 2 and log.count("is an inbox of the service") == 2
    await client.client.close()


async def test_a_worker_ends_no_job_that_it_was_not_given(system: Installation, ada: dict[str, str]) -> None:
    """Whatever it publishes about it: results, garbage, events, ends, claims. The true answer comes."""
    intruder = await as_worker(system, "w3")
    async with httpx.AsyncClient(base_url=system.url, headers=ada, timeout=40) as client:
        body = {"model": "echo", "input": {"prompt": "x"}}
        for number in range(10):
            job = f"forged{number}"
            await speak_of(intruder, job)
            assert (await client.put(f"/v1/jobs/{job}", json=body)).status_code == 202
            await speak_of(intruder, job)

            async def ended(job: str = job) -> str:
                found = (await client.get(f"/v1/jobs/{job}")).json()
                return json.dumps(found) if found["status"] == "completed" else ""

            await eventually(ended, 20)
            await speak_of(intruder, job)
            assert "t0 t1" in await ended(), "the true one"
            assert "FORGED" not in (await client.get(f"/v1/jobs/{job}/events")).text
    await intruder.client.close()


async def speak_of(intruder: Intruder, job: str) -> None:
    forged = json.dumps({**FORGED, "job": job}).encode()
    delta = json.dumps(
        {"event": "delta", "at": 0, "text": "FORGED", "attempt": 99, "term": 99, "seq": 1}
    ).encode()
    finished = json.dumps(
        {"job": job, "model": "echo", "attempt": 1, "outcome": "completed", "term": 1}
    ).encode()
    for seal in ("", "0" * 32):
        await intruder.client.publish(SUBJECTS.result(job, seal), forged)
        await intruder.client.publish(SUBJECTS.result(job, seal), b"garbage")
        await intruder.client.publish(SUBJECTS.out("any", job, seal), delta)
    await intruder.client.publish(SUBJECTS.finished("w3"), finished)
    await intruder.client.flush()


async def test_a_worker_is_told_nothing_of_a_job_that_it_was_not_given(
    system: Installation, ada: dict[str, str]
) -> None:
    """How its text goes on (`sent`), and what is stored of it (`recorded`)."""
    intruder = await as_worker(system)
    body = {"model": "slow", "input": {"prompt": "a secret"}}
    async with httpx.AsyncClient(base_url=system.url, headers=ada, timeout=20) as client:
        await client.put("/v1/jobs/watched", json=body)
        async with client.stream("GET", "/v1/jobs/watched/events") as events:
            async for line in events.aiter_lines():
                if "t5" in line:
                    break
            for seal in ("", "0" * 32):
                asked = json.dumps({"job": "watched", "seal": seal}).encode()
                answer = await intruder.client.request(SUBJECTS.sent(), asked, timeout=5)
                assert b"t0" not in answer.data
                answer = await intruder.client.request(SUBJECTS.scheduler("recorded"), asked, timeout=5)
                assert json.loads(answer.data)["state"] == "unknown"
        await client.post("/v1/jobs/watched/cancel")
    await intruder.client.close()


async def test_a_worker_takes_nobodys_place(system: Installation, ada: dict[str, str]) -> None:
    """A heartbeat under its own subject that names another worker is not that worker's."""
    intruder = await as_worker(system)
    beat = {
        "worker": "w2", "started_at": time.time(), "seq": 10**9, "spec": "", "profile": "cpu", "device": "d", "host": "h",
        "engines": {}, "memory_total_bytes": 1, "memory_used_bytes": 0, "is_leaving": True,
    }  # fmt: skip
    for _ in range(5):
        await intruder.client.publish(SUBJECTS.heartbeat("w1"), json.dumps(beat).encode())
    await intruder.client.flush()
    async with httpx.AsyncClient(base_url=system.url, headers=ada, timeout=20) as client:
        fleet = (await client.get("/v1/fleet")).json()
    assert "w2" in [worker["worker"] for worker in fleet["workers"]]
    assert complete(system.url, ada, "x").status_code == 200
    await intruder.client.close()


async def test_a_stolen_credential_sees_the_prompts_of_its_own_jobs_and_nothing_else(
    system: Installation,
) -> None:
    """Twenty tenants, three workers: what the thief of the first one's credential hears and can read."""
    thief = await as_worker(system)
    mine = (
        "stoker.worker.w1.>",
        "stoker.heartbeat.w1",
        "_INBOX.worker.w1.>",
        "stoker.solicit",
        "stoker.solicit.w1",
    )
    await thief.listen(*mine, "$KV.stoker_catalog.>", *HEARD)
    headers = await tenants(system)
    with ThreadPoolExecutor(TENANTS) as pool:
        prompts = {f"secret-{tenant}-{number}": tenant for tenant in range(TENANTS) for number in range(10)}
        answers = pool.map(lambda prompt: complete(system.url, headers[prompts[prompt]], prompt), prompts)
        assert {answer.status_code for answer in await asyncio.to_thread(list, answers)} == {200}
    for subject, body in ADMINISTRATION.values():
        thief.heard.append(await thief.api(subject, json.dumps(body).encode(), 0.1))
    heard = b" ".join(thief.heard).decode(errors="replace")
    seen = set(re.findall(r"secret-\d+-\d+", heard))
    worked = {
        job["id"] for job in await jobs_of(system, headers) if job.get("worker") == "w1"
    }  # fmt: skip
    assigned = [line for line in thief.heard if line.startswith(b"stoker.worker.w1.assign ")]
    assert {json.loads(line.split(b" ", 1)[1])["job"]["id"] for line in assigned} >= worked
    assert len(seen) == len(assigned) < len(prompts), "each of them in an assignment to this very worker"
    assert all(b"secret" not in line for line in thief.heard if line not in assigned)
    await thief.client.close()


async def tenants(system: Installation) -> list[dict[str, str]]:
    """The headers of twenty tenants, each with a key of its own."""
    made: list[dict[str, str]] = []
    async with open_bus(system.settings("operator"), "test") as bus:
        for number in range(TENANTS):
            key_id, secret = new_secret()
            await put_key(bus, ApiKey(key_id, f"tenant{number}", digest(secret), time.time()))
            made.append({"Authorization": f"Bearer {secret}"})
    async with httpx.AsyncClient(base_url=system.url) as client:
        for header in made:

            async def is_known(header: dict[str, str] = header) -> bool:
                return (await client.get("/v1/models", headers=header)).status_code == 200

            await eventually(is_known)
    return made


async def jobs_of(system: Installation, headers: list[dict[str, str]]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    async with httpx.AsyncClient(base_url=system.url, timeout=20) as client:
        for header in headers:
            found += (await client.get("/v1/jobs", params={"limit": 100}, headers=header)).json()["jobs"]
    return found


# Random operations --------------------------------------------------------------------------------

VERBS = ("STREAM.CREATE", "STREAM.UPDATE", "STREAM.DELETE", "STREAM.PURGE", "STREAM.MSG.DELETE", "CONSUMER.CREATE",
         "CONSUMER.DURABLE.CREATE", "CONSUMER.DELETE", "STREAM.LEADER.STEPDOWN", "STREAM.RESTORE", "STREAM.SNAPSHOT")  # fmt: skip
STREAMS = (names.JOBS_STREAM, names.RESULTS_STREAM, names.EVENTS_STREAM, names.WEBHOOKS_STREAM, names.BLOBS_STREAM,
           *(names.of_bucket(bucket) for bucket in (names.CATALOG_BUCKET, names.KEYS_BUCKET, names.SECRETS_BUCKET,
                                                    names.REPLICAS_BUCKET)))  # fmt: skip


async def described(system: Installation) -> dict[str, object]:
    """The form of every stream, and what lies in the buckets that only people, or one service, write."""
    async with open_bus(system.settings("operator"), "test") as bus:
        found: dict[str, object] = {}
        for info in await bus.jetstream.streams_info():
            found[info.config.name] = info.config
        for bucket in (names.KEYS_BUCKET, names.SECRETS_BUCKET, names.CATALOG_BUCKET, names.REPLICAS_BUCKET):
            state = (await bus.jetstream.stream_info(names.of_bucket(bucket))).state
            found[bucket] = (state.messages, state.last_seq)
        return found


@pytest.mark.parametrize("user", ["w1", "worker", "autoscaler"])
async def test_random_operations_change_nothing_outside_a_users_own(
    system: Installation, ada: dict[str, str], user: str
) -> None:
    before = await described(system)
    inbox = "_INBOX.autoscaler" if user == "autoscaler" else f"_INBOX.worker.{user}"
    intruder = await intruding(system.settings(user), inbox)
    chosen = random.Random(15)
    for number in range(600):
        stream = chosen.choice(STREAMS)
        body = {"name": stream, "stream_name": stream, "seq": chosen.randrange(9), "max_msgs": 1,
                "subjects": [f"x{number}"], "config": {"deliver_subject": "$KV.stoker_keys.a", "name": "c"}}  # fmt: skip
        subject = chosen.choice((
            f"$JS.API.{chosen.choice(VERBS)}.{stream}", f"$JS.API.{chosen.choice(VERBS)}.{stream}.c",
            f"$KV.{chosen.choice(['stoker_keys', 'stoker_secrets', 'stoker_catalog'])}.{number}",
            f"stoker.{chosen.choice(['jobs', 'cancel', 'ended', 'webhook'])}.x{number}", f"$JS.ACK.{stream}.x",
        ))  # fmt: skip
        await intruder.client.publish(subject, json.dumps(body).encode())
    await intruder.client.flush()
    assert await described(system) == before
    assert complete(system.url, ada, "x").status_code == 200
    await intruder.client.close()


# Invitations --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_worker_whose_invitation_was_taken_back_is_shut_out(tmp_path: Path) -> None:
    with installed(tmp_path, "guest") as system:
        wait_for(lambda: httpx.get(f"{system.url}/v1/fleet").json()["workers"], 20, "the guest")
        system.command("workers", "revoke", "guest", "--users", "users.conf")
        system.processes["nats"].send_signal(signal.SIGHUP)
        assert wait_for(lambda: not httpx.get(f"{system.url}/v1/fleet").json()["workers"], 20, "no guest")


async def test_an_invited_worker_has_one_name(system: Installation) -> None:
    for role in ("worker.w2", "gateway", worker_role("any")):
        with pytest.raises(CannotConnect, match="the --name that was invited"):
            async with open_bus(system.settings("w1"), "test", role=role):
                pass
    async with open_bus(system.settings("w1"), "test", role=worker_role("w1")):
        pass


def test_inviting_changes_the_file_by_one_user_and_taking_it_back_by_the_same() -> None:
    whole = users_conf()
    with_one = with_worker(whole, "a b", "UABC")
    assert '"stoker.worker.a=20b.*"' in with_one and "UABC" in with_one
    with_two = with_worker(with_one, "b", "UDEF")
    assert without_worker(without_worker(with_two, "a b"), "b") == whole
    with pytest.raises(ValueError, match="is invited already"):
        with_worker(with_one, "a b", "UABC")
    with pytest.raises(ValueError, match="no worker 'c' is invited"):
        without_worker(with_one, "c")
    with pytest.raises(ValueError, match="not a file of users of this version"):
        with_worker("authorization {}", "a", "UABC")


def test_no_service_may_make_or_remove_a_stream() -> None:
    for user, permissions in services().items():
        for subject in permissions.published():
            assert subject != ">" and not subject.startswith(("$JS.API.>", "$JS.>")), user
            assert not subject.startswith("_INBOX") or (user, subject) == ("gateway", "_INBOX.client.>")
            words = ("STREAM.CREATE", "STREAM.DELETE", "STREAM.PURGE", "SNAPSHOT", "RESTORE", "MSG.DELETE")
            assert not any(word in subject for word in words), (user, subject)
