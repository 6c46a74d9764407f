"""The dashboard in a real Chromium: live pages, jobs, the timeline, the playground, and what operators look after.

One smoke test runs always; the others, which walk every page, are slow.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DEMO, SYNTHETIC, System, wait_for
from tests.system.browsing import PAGES, chromium, open_page, until, violations, walk

OBSERVE_PICTURES = """() => {
  window.pictures = new Set();
  const note = () => { for (const one of document.querySelectorAll(".pictures img")) window.pictures.add(one.src); };
  new MutationObserver(note).observe(document.body, { subtree: true, childList: true, attributes: true });
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def errors() -> Iterator[list[str]]:
    found: list[str] = []
    yield found
    assert found == []


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The demo with its modes."""
    folder = tmp_path_factory.mktemp("dashboard")
    system = System(folder, DEMO / "stoker.yaml", "--config", str(DEMO / "modes.yaml"))
    try:
        system.wait_ready()
        yield system
    finally:
        system.stop()


def send(page: Any, prompt: str, button: str = "Send") -> None:
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name=button, exact=True).click()


def test_a_job_is_sent_found_and_explained(synthetic: System, browser: Any, errors: list[str]) -> None:
    page = open_page(browser, synthetic.url + "/playground?model=echo", errors)
    send(page, "hello")
    page.locator("#told", has_text="done after").wait_for()
    page.get_by_role("link", name="The job").click()
    page.locator("#sentences", has_text="It completed").wait_for()
    assert re.search(r"/jobs/[A-Za-z0-9]+$", page.url)
    said = page.locator("#sentences").inner_text()
    assert "It went to worker-" in said
    assert "It ran for" in said
    page.get_by_role("navigation").get_by_role("link", name="Jobs").click()
    page.locator("tbody tr", has_text="echo").first.wait_for()
    assert violations(page) == []
    page.context.close()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_every_page_is_for_everybody(
    synthetic: System, browser: Any, errors: list[str], width: int, scheme: str
) -> None:
    """axe finds nothing, each thing is reached with Tab and shows it, and nothing is outside of a small screen."""
    job = synthetic.submit("echo")
    synthetic.ended(job)
    page = open_page(browser, synthetic.url, errors, width, scheme)
    for path in (*PAGES, f"/jobs/{job}"):
        page.goto(synthetic.url + path)
        page.locator("main h1").first.wait_for()
        until(page, "!document.body.innerText.includes('Looking…')")
        assert violations(page) == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert walk(page) == [], path
    page.context.close()


@pytest.mark.slow
def test_nothing_is_replaced_under_the_readers_hand(synthetic: System, browser: Any, errors: list[str]) -> None:
    job = synthetic.submit("echo")
    synthetic.ended(job)
    page = open_page(browser, synthetic.url + "/jobs", errors)
    link = page.locator(f"a[href='/jobs/{job}']")
    link.wait_for()
    link.focus()
    page.evaluate("window.kept = document.activeElement")
    other = synthetic.submit("echo")
    page.locator(f"a[href='/jobs/{other}']").wait_for()
    synthetic.ended(other)
    page.locator("tr", has=page.locator(f"a[href='/jobs/{other}']")).locator(".completed").wait_for()
    assert page.evaluate("window.kept === document.activeElement && window.kept.isConnected")
    page.keyboard.press("Enter")
    page.locator("#sentences", has_text="It completed").wait_for()
    page.go_back()
    page.locator(f"a[href='/jobs/{job}']").wait_for()
    page.context.close()


@pytest.mark.slow
def test_jobs_are_searched_and_what_is_asked_stands_in_the_address(
    synthetic: System, browser: Any, errors: list[str]
) -> None:
    mine = synthetic.submit("single")
    synthetic.ended(mine)
    synthetic.ended(synthetic.submit("echo"))
    page = open_page(browser, synthetic.url + "/jobs", errors)
    page.get_by_label("Model", exact=True).fill("single")
    until(page, "[...document.querySelectorAll('tbody tr')].every((row) => row.innerText.includes('single'))")
    assert "model=single" in page.url
    page.get_by_label("Id or model").fill(mine[-6:])
    until(page, "document.querySelectorAll('tbody tr').length === 1")
    page.reload()
    page.locator(f"a[href='/jobs/{mine}']").wait_for()
    page.get_by_label("State").select_option("failed")
    page.get_by_text("No job matches").wait_for()
    page.context.close()


@pytest.mark.slow
def test_a_job_is_cancelled_and_run_again(synthetic: System, browser: Any, errors: list[str]) -> None:
    job = synthetic.submit("slow")
    page = open_page(browser, f"{synthetic.url}/jobs/{job}", errors)
    page.get_by_role("button", name="Cancel").click()
    page.locator(".status.cancelled").wait_for()
    page.locator("#sentences", has_text="It was cancelled").wait_for()
    page.get_by_role("button", name="Run it again").click()
    until(page, f"!location.pathname.endsWith('{job}')")
    page.locator(".status.completed").wait_for(timeout=30_000)
    page.get_by_role("link", name="Download the result").wait_for()
    page.context.close()


@pytest.mark.slow
def test_the_timeline_shows_jobs_loads_and_changes(synthetic: System, browser: Any, errors: list[str]) -> None:
    jobs = [synthetic.submit("single") for _ in range(3)]
    for job in jobs:
        synthetic.ended(job)
    wait_for(lambda: len(synthetic.get("/v1/history/jobs?model=single")["jobs"]) >= 3, what="the jobs' history")
    page = open_page(browser, synthetic.url + "/timeline?span=300", errors)
    page.get_by_text("jobs that ended here").wait_for()
    page.locator("#lanes").focus()
    found = ""
    for _ in range(4):  # lanes, until one has jobs
        page.keyboard.press("ArrowDown")
        found = page.locator("#chosen").inner_text()
        if "job " in found:
            break
    for _ in range(30):
        if "job " in found:
            break
        page.keyboard.press("ArrowLeft")
        found = page.locator("#chosen").inner_text()
    assert re.search(r"worker-\d: .*running", found), found
    page.keyboard.press("Enter")
    page.locator("#sentences").wait_for()
    page.go_back()
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Zoom in").click()
    assert "span=150" in page.url
    assert "until=" in page.url
    page.get_by_label("Span").select_option("86400")
    page.get_by_text("how busy each worker was").wait_for()
    page.get_by_role("button", name="Follow").click()
    assert "until=" not in page.url
    page.context.close()


@pytest.mark.slow
def test_a_worker_that_dies_is_grey_at_once(tmp_path: Path, browser: Any, errors: list[str]) -> None:
    system = System(tmp_path, SYNTHETIC)
    try:
        system.wait_ready()
        system.ended(system.submit("echo"))
        page = open_page(browser, system.url, errors)
        page.locator(".tier.hot").first.wait_for()
        pid = system.pid("worker-2")
        os.kill(pid, 19)  # it goes on to be there, and says nothing
        page.locator("tr.silent, tr.gone").wait_for(timeout=15_000)
        assert page.locator("tr.silent .tier.hot, tr.gone .tier.hot").count() == 0
        page.locator(".events li", has_text="lost").wait_for(timeout=15_000)
        os.kill(pid, 18)
        page.locator("tr.silent, tr.gone").wait_for(state="detached", timeout=15_000)
        page.context.close()
    finally:
        system.stop()


@pytest.mark.slow
def test_an_answer_a_picture_and_the_same_as_code(shown: System, browser: Any, errors: list[str]) -> None:
    page = open_page(browser, shown.url + "/playground?model=demo-image", errors)
    page.evaluate(OBSERVE_PICTURES)
    send(page, "red seven", "Draw")
    page.locator("#picture[alt='red seven']").wait_for(timeout=60_000)
    assert page.evaluate("window.pictures.size") == 4, "three previews, and the picture"
    page.locator("#told", has_text="done after").wait_for()
    page.get_by_label("Model", exact=True).select_option("demo-chat")
    send(page, "What is a worker?")
    page.locator("#answer", has_text="holds models in memory").wait_for(timeout=60_000)
    page.locator("#told", has_text="tokens/s").wait_for()
    page.get_by_text("The same as code").click()
    for language, word in (
        ("curl", "curl http"),
        ("Python", "from openai import OpenAI"),
        ("Node", "await fetch"),
    ):
        page.get_by_label("Language").select_option(language)
        page.locator(".snippets pre", has_text=word).wait_for()
    page.locator("#mode").select_option("quick")
    page.get_by_role("button", name="Switch").click()
    page.locator("#modes [role=status]", has_text=re.compile("\\w")).wait_for()
    assert violations(page) == []
    page.context.close()


@pytest.mark.slow
def test_an_edit_has_its_picture_and_its_mask(
    shown: System, browser: Any, errors: list[str], tmp_path: Path
) -> None:
    from PIL import Image

    Image.new("RGB", (32, 32), "blue").save(tmp_path / "blue.png")
    page = open_page(browser, shown.url + "/playground?model=demo-image", errors)
    page.get_by_text("From a picture").click()
    page.get_by_label("Picture", exact=True).set_input_files(tmp_path / "blue.png")
    board = page.locator("canvas.mask")
    board.hover(position={"x": 60, "y": 60})
    page.mouse.down()
    board.hover(position={"x": 100, "y": 100})
    page.mouse.up()
    page.get_by_text("Parameters", exact=True).click()
    page.get_by_label("Seed").fill("7")
    page.get_by_text("The same as code").click()
    page.locator(".snippets pre", has_text="mask=@mask.png").wait_for()
    send(page, "red seven", "Draw")
    page.locator("#picture[alt='red seven']").wait_for(timeout=60_000)
    page.context.close()


@pytest.mark.slow
def test_a_key_is_asked_for_and_its_role_says_what_is_shown(
    tmp_path: Path, browser: Any, errors: list[str]
) -> None:
    system = System(tmp_path, SYNTHETIC, "--require-keys")
    try:
        system.wait_for_gateway()
        command = [sys.executable, "-P", "-m", "stoker", "keys", "create", "ada", "--json", "--data"]
        made = subprocess.run([*command, str(system.data)], capture_output=True, text=True, check=True).stdout
        secret = json.loads(made)["key"]
        page = open_page(browser, system.url + "/jobs", [])
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Enter").click()
        page.get_by_text("This key is not valid").wait_for()
        page.get_by_label("API key").fill(secret)
        page.get_by_role("button", name="Enter").click()
        page.get_by_text("No job yet").wait_for()
        names = page.locator("nav a").all_inner_texts()
        assert names == ["Jobs", "Playground", "Schedules"]
        page.goto(system.url + "/keys")
        page.get_by_text("needs a key of the role admin").wait_for()
        page.context.close()
    finally:
        system.stop()
