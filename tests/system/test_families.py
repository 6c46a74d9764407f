"""A process for each family of engines: a picture that ends its process costs no text anything."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest
import yaml

from tests.conftest import DEMO, System, events_of, wait_for
from tests.fixtures import checkpoints

pytestmark = pytest.mark.slow

TOKENS, STEPS, LEAVERS = 160, 150, 20
WORKER = "worker-1"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One worker that writes and draws, both models hot."""
    folder = tmp_path_factory.mktemp("families")
    tiny = {
        "engine": "diffusers",
        "url": f"file://{checkpoints.sd15(folder / 'tiny')}",
        "defaults": {"width": 64, "height": 64},
    }
    story = {"engine": "synthetic", "options": {"tokens": TOKENS, "token_interval_s": 0.05}}
    worker = {"count": 1, "memory": "2GB", "engines": ["synthetic", "diffusers"]}
    found = System(folder, yaml.safe_dump({"models": {"tiny": tiny, "story": story}, "workers": [worker]}))
    try:
        found.wait_ready()
        for model in ("story", "tiny"):
            fields = {"max_tokens": 2} if model == "story" else {"num_inference_steps": 2}
            assert found.ended(found.submit(model, **fields), 60)["status"] == "completed"
        yield found
    finally:
        found.stop()


def runner(system: System, family: str) -> psutil.Process:
    def find() -> psutil.Process | None:
        children = psutil.Process(system.pid(WORKER)).children()
        return next((one for one in children if one.cmdline()[-1:] == [family]), None)

    found: psutil.Process = wait_for(find, what=f"the runner of {family}")
    return found


def beat(system: System) -> Any:
    return system.get("/v1/fleet")["workers"][0]


def text_of(system: System, job: str) -> tuple[str, set[int], str]:
    """The text of a job's stream, the attempts that made it, and how it ended."""
    text, attempts, last = "", set(), ""
    for event in events_of(f"{system.url}/v1/jobs/{job}/events"):
        last = event["event"]
        attempts.add(event["data"].get("attempt", 1))
        if event["event"] == "delta":
            text += event["data"]["text"]
    return text, attempts, last


def write(system: System, pool: ThreadPoolExecutor) -> tuple[str, Any]:
    """A text that is being written, and a stream of it."""
    job = system.submit("story")
    stream = pool.submit(text_of, system, job)
    wait_for(lambda: system.job(job)["status"] == "running", what="the text to be written")
    return job, stream


def check_whole(system: System, job: str, stream: Any) -> None:
    text, attempts, last = stream.result(60)
    assert (text, attempts) == ("".join(f"t{number} " for number in range(TOKENS)), {1})
    assert last == "completed"
    ended = system.ended(job)
    assert (ended["status"], ended["attempt"]) == ("completed", 1)


def test_the_death_of_what_draws_costs_no_text_anything(system: System) -> None:
    writes = runner(system, "synthetic")
    with ThreadPoolExecutor(1) as pool:
        job, stream = write(system, pool)
        picture = system.submit("tiny", num_inference_steps=STEPS)
        wait_for(lambda: system.job(picture)["status"] == "running", what="the picture to be drawn")
        draws = runner(system, "images")
        draws.kill()
        draws.wait(10)
        wait_for(lambda: "diffusers" not in beat(system)["engines"], what="a heartbeat without the engine")
        told = beat(system)
        assert "synthetic" in told["engines"] and told["vram_models"] == ["story"]
        asked_meanwhile = system.submit("tiny", num_inference_steps=2)
        check_whole(system, job, stream)
    ended = system.ended(picture, 90)
    assert (ended["status"], ended["attempt"]) == ("completed", 2)
    assert system.ended(asked_meanwhile, 90)["status"] == "completed", "its engine was coming"
    assert runner(system, "synthetic").pid == writes.pid
    assert sorted(beat(system)["vram_models"]) == ["story", "tiny"]
    assert "coming" not in beat(system)


def test_twenty_clients_that_leave_in_the_middle_of_a_picture_cost_no_text_anything(system: System) -> None:
    writes, draws = runner(system, "synthetic"), runner(system, "images")
    with ThreadPoolExecutor(LEAVERS + 1) as pool:
        job, stream = write(system, pool)

        def leave(number: int) -> None:
            body = {"model": "tiny", "prompt": f"p{number}", "num_inference_steps": STEPS}
            with pytest.raises(httpx.TimeoutException):
                httpx.post(f"{system.url}/v1/images/generations", json=body, timeout=1.0)

        list(pool.map(leave, range(LEAVERS)))
        check_whole(system, job, stream)
    wait_for(lambda: not beat(system).get("running"), 30, "what was left to be over")
    assert (runner(system, "synthetic").pid, runner(system, "images").pid) == (writes.pid, draws.pid)
    assert system.ended(system.submit("tiny", num_inference_steps=2), 60)["status"] == "completed"


def test_a_text_does_not_wait_for_a_large_model_of_another_engine(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """One that loads for twelve seconds; the text's own load takes a fraction of one."""
    folder = tmp_path_factory.mktemp("beside")
    big = {"engine": "synthetic", "memory": "100MB", "options": {"memory_bytes": 100_000_000, "load_s": 12}}
    chat = {"engine": "llamacpp", "url": f"file://{DEMO / 'chat.gguf'}", "options": {"n_ctx": 256}}
    worker = {"count": 1, "memory": "512MB", "engines": ["synthetic", "llamacpp"]}
    found = System(folder, yaml.safe_dump({"models": {"big": big, "chat": chat}, "workers": [worker]}))
    try:
        found.wait_ready()
        large = found.submit("big", max_tokens=2)
        wait_for(lambda: found.get("/v1/fleet")["workers"][0].get("models"))
        text = found.submit("chat", max_tokens=2)
        assert found.ended(text, 30)["status"] == "completed"
        assert found.get(f"/v1/jobs/{large}")["status"] not in ("completed", "failed")
        assert found.ended(large, 30)["status"] == "completed"
    finally:
        found.stop()
