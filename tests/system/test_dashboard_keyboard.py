"""The whole dashboard with the keyboard alone: no click, and no address typed after the first page."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import System
from tests.system.browsing import chromium, open_page, until, walk
from tests.system.keyboard import Keyboard
from tests.system.test_keys import keys

CONFIG = """\
models:
  echo: {engine: synthetic, options: {tokens: 8}}
  slow: {engine: synthetic, options: {tokens: 400, token_interval_s: 0.05}}
  draw: {engine: synthetic, features: [ImageGeneration], options: {step_s: 0.01}}
workers: [{count: 2, memory: 512MB, engines: [synthetic, function]}]
"""
PROJECT = """\
import msgspec
from stoker import ActionContext, worker_function

class Ask(msgspec.Struct):
    text: str
    count: int = 1
    loud: bool = False

class Said(msgspec.Struct):
    text: str

@worker_function()
def repeat(ctx: ActionContext, payload: Ask) -> Said:
    text = payload.text * payload.count
    return Said(text.upper() if payload.loud else text)
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("keyboard")
    (folder / "project").mkdir()
    (folder / "project" / "app.py").write_text(PROJECT)
    (folder / "project" / "pyproject.toml").write_text('[tool.stoker]\nmodules = ["app"]\n')
    found = System(folder, CONFIG, "--require-keys", "--functions", str(folder / "project"))
    try:
        found.wait_for_gateway()
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def user(system: System) -> Iterator[Keyboard]:
    """Somebody who has given a key of the role admin, with the keyboard."""
    secret = keys(system, "create", "ada", "--role", "admin", "--json")["key"]
    with chromium() as browser:
        page = open_page(browser, system.url, [])
        found = Keyboard(page)
        found.tab_to("API key", "input")
        found.type("wrong")
        found.press("Enter")
        page.get_by_text("This key is not valid").wait_for()
        found.check()
        found.focus_is("(one) => one.id === 'key'")
        found.press("Control+A")
        found.type(secret)
        found.press("Enter")
        page.get_by_role("heading", name="Fleet").wait_for()
        found.focus_is("(one) => one.id === 'main'")
        yield found
        assert found.told == [], "focus that is not seen"


def settled(user: Keyboard, heading: str) -> None:
    """A page is there, and it has the focus."""
    user.page.get_by_role("heading", name=heading, exact=True, level=1).wait_for()
    user.focus_is("(one) => one.id === 'main'")
    until(user.page, "!document.body.innerText.includes('Looking…')")


def opened(user: Keyboard, name: str) -> None:
    """A page from anew, whichever was there before."""
    for page in ("Keys", name):
        user.go(page)
        settled(user, page)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "Timeline",
        "Jobs",
        "Playground",
        "Models",
        "Specs",
        "Schedules",
        "Quarantine",
        "Configuration",
        "Keys",
        "Fleet",
    ],
)
def test_every_page_is_reached_and_walked_through(user: Keyboard, name: str) -> None:
    user.go(name)
    settled(user, name)
    user.check()
    assert walk(user.page) == []


@pytest.mark.slow
def test_the_first_tab_leads_to_the_content(user: Keyboard) -> None:
    user.page.evaluate("document.activeElement.blur()")
    user.tab_to("To the content", "a")
    user.press("Enter")
    user.focus_is("(one) => one.id === 'main'")


@pytest.mark.slow
def test_a_chat_is_sent_stopped_and_sent_again(user: Keyboard) -> None:
    page = user.page
    opened(user, "Playground")
    user.tab_to("Model", "select")
    user.choose("echo")
    user.tab_to("Prompt", "textarea")
    user.type("hello")
    user.tab_to("Send", "button")
    user.press("Enter")
    page.locator("#told", has_text="done after").wait_for()
    user.focus_is("(one) => one.id === 'send'")
    user.check()
    user.tab_to("Model", "select", back=True)
    user.choose("slow")
    user.tab_to("Prompt", "textarea")
    user.type("hello")
    user.press("Control+Enter")
    until(page, "document.querySelector('#cancel').ariaDisabled === 'false'")
    user.tab_to("Cancel", "button")
    user.press("Space")
    page.locator("#told", has_text="cancelled").wait_for()
    user.focus_is("(one) => one.id === 'send' || one.id === 'cancel'")
    user.tab_to("Parameters", "summary")
    user.press("Enter")
    user.tab_to("Seed", "input")
    user.type("7")
    user.tab_to("The same as code", "summary")
    user.press("Space")
    user.tab_to("Language", "select")
    user.choose("Node")
    page.locator(".snippets pre", has_text="await fetch").wait_for()
    user.check()


@pytest.mark.slow
def test_a_picture_is_edited_with_a_mask_that_keys_paint(user: Keyboard, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64), "blue").save(tmp_path / "blue.png")
    page = user.page
    opened(user, "Playground")
    user.tab_to("Model", "select")
    user.choose("draw")
    user.tab_to("Prompt", "textarea")
    user.type("red seven")
    user.tab_to("From a picture", "summary")
    user.press("Enter")
    user.tab_to("Picture", "input")
    user.choose_file(tmp_path / "blue.png")
    user.tab_to("The picture.*", "canvas")
    user.check()
    user.press("ArrowRight", "ArrowDown", "Space")
    page.locator("#mask-told", has_text="painted").wait_for()
    user.press("Shift+ArrowRight", "Enter")
    user.tab_to("Clear the mask", "button", back=True)
    user.tab_to("Draw", "button", back=True)
    user.press("Enter")
    page.locator("#picture[alt='red seven']").wait_for()
    user.focus_is("(one) => one.id === 'send'")
    user.tab_to("The same as code", "summary")
    user.press("Enter")
    page.locator(".snippets pre", has_text="mask=@mask.png").wait_for()
    user.check()


@pytest.mark.slow
def test_a_function_is_called_with_its_form(user: Keyboard) -> None:
    page = user.page
    opened(user, "Playground")
    user.tab_to("Model", "select")
    user.choose("repeat")
    user.tab_to(r"text \(required\)", "textarea")
    user.type("ab")
    user.tab_to("count", "input")
    user.type("2")
    user.tab_to("loud", "input")
    user.press("Space")
    user.tab_to("Call", "button")
    user.press("Enter")
    page.locator("section .markdown", has_text="ABAB").wait_for()
    assert "tokens in" not in page.inner_text("main")
    user.check()


@pytest.mark.slow
def test_a_job_is_found_cancelled_and_run_again(user: Keyboard) -> None:
    page = user.page
    opened(user, "Playground")
    user.tab_to("Model", "select")
    user.choose("slow")
    user.tab_to("Prompt", "textarea")
    user.type("hello")
    user.press("Control+Enter")
    page.get_by_role("link", name="The job").wait_for()
    user.tab_to("The job", "a")
    user.press("Enter")
    user.focus_is("(one) => one.id === 'main'")
    user.tab_to("Jobs", "a")
    user.press("Enter")
    settled(user, "Jobs")
    user.tab_to("State", "select")
    user.choose("cancelled")  # who leaves the playground cancels what runs there
    until(page, "document.querySelectorAll('tbody tr').length > 0")
    user.tab_to("Jobs, newest first", "div")
    user.tab_to("….*", "a")
    user.press("Enter")
    page.locator(".status.cancelled").wait_for()
    user.check()
    user.tab_to("Run it again", "button")
    before = page.url
    user.press("Space")
    until(page, f"location.href !== '{before}' || document.querySelector('.actions [role=status]').innerText")
    assert page.url != before, page.inner_text("main")
    page.locator(".status.running, .status.assigned").wait_for()
    user.focus_is("(one) => one.id === 'main'")
    user.tab_to("Cancel", "button")
    user.press("Space")
    page.locator(".status.cancelled").wait_for()
    user.check()
    user.focus_is("(one) => one !== document.body")


@pytest.mark.slow
def test_the_timeline_is_moved_zoomed_and_followed(user: Keyboard) -> None:
    page = user.page
    opened(user, "Timeline")
    user.tab_to("Pause", "button")
    user.press("Space")
    user.focus_is("(one) => one.innerText === 'Follow'")
    user.tab_to("Span", "select")
    user.choose("300")
    user.tab_to("Zoom in", "button")
    user.press("Enter")
    assert "span=150" in page.url
    user.tab_to("Until.*", "input")
    user.press("ArrowLeft")
    assert "until=" in page.url
    user.tab_to("Lanes of workers and specs", "div")
    user.press("ArrowDown", "ArrowLeft", "+", "-", "PageUp", "PageDown")
    assert page.locator("#chosen").inner_text() != ""
    user.press("Escape")
    assert page.locator("#chosen").inner_text() == ""
    user.check()
    user.tab_to("Follow", "button", back=True)
    user.press("Enter")
    assert "until=" not in page.url
    user.tab_to(re.compile("The .* jobs that ended here, as a table").pattern, "summary")
    user.press("Enter")
    user.check()


@pytest.mark.slow
def test_a_schedule_is_made_paused_run_and_removed(user: Keyboard) -> None:
    page = user.page
    opened(user, "Schedules")
    user.tab_to("Make a schedule", "summary")
    user.press("Enter")
    for label, text in (("Name", "morning"), ("Model or function", "echo"), (r"Times.*", "0 6 * * 1-5")):
        user.tab_to(label, "input")
        user.type(text)
    user.tab_to("Input, as JSON", "textarea")
    user.type('{"prompt": "x"}')
    user.tab_to("Make it", "button")
    user.press("Enter")
    page.get_by_text("morning was made").wait_for()
    page.locator("tbody tr", has_text="morning").wait_for()
    user.check()
    user.tab_to("Pause morning", "button", back=True)
    user.press("Enter")
    page.get_by_text("morning was paused").wait_for()
    user.focus_is("(one) => one.innerText.startsWith('Resume')")
    user.tab_to("Run now morning", "button", back=True)
    user.press("Enter")
    page.get_by_text("was started").wait_for()
    user.tab_to("Remove morning", "button")
    user.press("Enter")
    page.get_by_text("morning was removed").wait_for()
    user.focus_is("(one) => one !== document.body")
    user.check()
