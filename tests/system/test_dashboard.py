"""The dashboard in a real Chromium: open, send, watch tokens and previews arrive, cancel, see a worker die.

STOKER_SCREENSHOT=1 renews the picture in the README.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DEMO, ROOT, SYNTHETIC, System

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""

OBSERVE_PICTURES = """() => {
  window.pictures = [];
  const note = (records) => { for (const one of records) window.pictures.push(one.target.alt); };
  new MutationObserver(note).observe(document.getElementById("picture"), { attributeFilter: ["src"] });
}"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def errors() -> Iterator[list[str]]:
    found: list[str] = []
    yield found
    assert found == []


def open_page(browser: Any, system: System, errors: list[str], width: int = 1280, scheme: str = "light") -> Any:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(system.url)
    page.locator("#fleet tbody tr").first.wait_for()
    return page


def send(page: Any, model: str, prompt: str) -> None:
    page.get_by_label("Model", exact=True).select_option(model)
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_role("button", name="Send").click()


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


def test_an_answer_a_picture_and_a_jobs_timeline(shown: System, browser: Any, errors: list[str]) -> None:
    page = open_page(browser, shown, errors)
    page.evaluate(OBSERVE_PICTURES)
    send(page, "demo-image", "red seven")
    page.locator("#picture[alt='red seven']").wait_for()
    assert page.evaluate("window.pictures").count("preview of red seven") == 3
    send(page, "demo-chat", "What is a worker?")
    page.locator("#answer", has_text="holds models in memory").wait_for()
    page.locator("#told", has_text="done after").wait_for()
    page.locator("#fleet .tier.hot").first.wait_for()
    page.locator("#events li", has_text="joined").wait_for()
    page.get_by_label("Mode", exact=True).select_option("quick")
    page.get_by_role("button", name="Switch").click()
    page.locator("#told", has_text="witch").wait_for()
    page.locator("#jobs tbody tr", has_text="completed").first.locator("button").click()
    page.locator("#job h3").wait_for()
    assert "run" in page.locator("#job").inner_text()
    if os.environ.get("STOKER_SCREENSHOT"):
        page.screenshot(path=str(ROOT / "docs" / "dashboard.png"), full_page=True)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_it_fits_the_screen_and_is_reached_by_keyboard(
    shown: System, browser: Any, errors: list[str], width: int, scheme: str
) -> None:
    page = open_page(browser, shown, errors, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_label("Prompt").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "send"
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, select, textarea')]"
        ".filter((one) => !(one.textContent.trim() || one.labels?.length)).length"
    )
    assert unnamed == 0


def test_a_cancel_and_the_death_of_a_worker(tmp_path: Path, browser: Any, errors: list[str]) -> None:
    system = System(tmp_path, SYNTHETIC)
    try:
        system.wait_ready()
        page = open_page(browser, system, errors)
        send(page, "slow", "hello")
        page.locator("#answer").filter(has_text=re.compile(r"\w")).wait_for()
        page.get_by_role("button", name="Cancel").click()
        page.locator("#told", has_text="cancelled").wait_for()
        page.locator("#jobs tbody tr", has_text="cancelled").first.wait_for()
        assert [job["status"] for job in system.get("/v1/jobs")["jobs"]] == ["cancelled"]
        system.kill("worker-2")
        page.locator("#events li", has_text="lost").wait_for(timeout=15_000)
    finally:
        system.stop()
