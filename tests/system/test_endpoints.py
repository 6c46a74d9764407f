"""`nats micro info` and `nats micro stats` of a running system: every question counts where it is answered."""

import asyncio
import json
from typing import Any

import nats
from nats.aio.client import Client

from stoker.schemas.channels import ENDPOINTS
from tests.conftest import System

FIRST_WORKER = "worker-1"
QUESTIONS: dict[str, bytes] = {
    "requests": b'{"path": "/v1/completions", "body": {"model": "nobody", "prompt": "x"}}',
    "calls": b'{"asks": "call", "parent": "p", "name": "echo", "payload": {}}',
    "sent": b'{"job": "j"}',
    "use": b"null",
    "cancel": b"{}",
    "worker_replay": b'{"job": "j"}',
    "worker_cancel": b'{"job": "j"}',
    "worker_revoke": b'{"job": "j", "term": 0, "attempt": 1}',
    "worker_ping": b"null",
    "scheduler_job": b'{"job": "j"}',
    "scheduler_job_for_sure": b'{"job": "j"}',
    "scheduler_recorded": b'{"job": "j", "seal": "none"}',
    "scheduler_jobs": b"{}",
    "scheduler_explain": b'{"job": "j"}',
    "scheduler_ping": b"null",
}
UNREADABLE = ("worker_assign", "worker_load", "worker_read", "worker_unload")


async def heard(client: Client, verb: str) -> list[Any]:
    """The answers of all services."""
    inbox = client.new_inbox()
    answers = await client.subscribe(inbox)
    await client.publish(f"$SRV.{verb}", reply=inbox)
    return [json.loads((await answers.next_msg(5)).data) for _ in range(5)]


def of_first(services: list[Any]) -> dict[str, Any]:
    """The endpoints of all services by their names, and of one worker."""
    return {
        endpoint["name"]: endpoint
        for service in services
        if service["metadata"].get("worker", FIRST_WORKER) == FIRST_WORKER
        for endpoint in service["endpoints"]
    }


async def test_every_endpoint_is_listed_and_counts_what_it_was_asked(synthetic: System) -> None:
    job = await asyncio.to_thread(synthetic.submit, "echo")
    await asyncio.to_thread(synthetic.ended, job)
    client = await nats.connect(synthetic.nats)
    info = of_first(await heard(client, "INFO"))
    assert info.keys() == ENDPOINTS.keys()
    assert info["requests"]["queue_group"] == info["calls"]["queue_group"] == "gateways"
    assert "prompt" not in str(info["worker_ping"]["metadata"])
    before = of_first(await heard(client, "STATS"))
    asked = QUESTIONS | dict.fromkeys(UNREADABLE, b"[]")
    for name, question in asked.items():
        subject = info[name]["subject"].replace("*", "no-such-job")
        answer = await client.request(subject, question, timeout=5)
        json.loads(answer.data)
    after = of_first(await heard(client, "STATS"))
    for name in asked:
        assert after[name]["num_requests"] > before[name]["num_requests"], name
        assert after[name]["processing_time"] > 0
        assert after[name]["average_processing_time"] <= after[name]["processing_time"]
    for name in UNREADABLE:
        assert after[name]["num_errors"] > before[name]["num_errors"]
        assert after[name]["last_error"]
    assert after["requests"]["last_error"] == "status 404"
    assert asked.keys() | {"worker_drain"} == ENDPOINTS.keys()
    await client.close()
