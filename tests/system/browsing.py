"""A real Chromium for tests of the dashboard: pages whose errors fail the test, axe, and the keyboard."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.conftest import ROOT, wait_for

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
AXE = ROOT / "tests" / "fixtures" / "axe.min.js"
PAGES = (
    "/", "/timeline", "/jobs", "/playground", "/models", "/specs", "/schedules", "/quarantine", "/configuration",
    "/keys",
)  # fmt: skip

FOCUSABLE = """() => {
  const all = document.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex="0"]');
  const seen = (one) => one.checkVisibility() && !one.disabled && !one.closest('details:not([open]) > :not(summary)');
  return [...all].filter(seen).map((one) => {
    one.dataset.reached = one.dataset.reached || "no";
    return one;
  }).length;
}"""
MARK = """() => {
  const one = document.activeElement;
  if (!one || one === document.body) return "";
  const style = getComputedStyle(one);
  const again = one.dataset.reached === "yes";
  one.dataset.reached = "yes";
  return again ? "again" : style.outlineStyle === "none" && !one.matches(".skip, main") ? one.outerHTML : "new";
}"""
UNREACHED = """() => [...document.querySelectorAll('[data-reached="no"]')]
  .filter((one) => one.isConnected && one.type !== "radio").map((one) => one.outerHTML.slice(0, 200))"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped where there is none."""
    import pytest

    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def open_page(
    browser: Any, url: str, errors: list[str], width: int = 1280, scheme: str = "light", *, touch: bool = False
) -> Any:
    """A page of the dashboard, once it is there. What its console says of errors goes to `errors`."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, has_touch=touch
    )
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(url)
    page.locator("main h1:not(:text-is('Stoker'))").first.wait_for()
    return page


def until(page: Any, expression: str) -> None:
    """Wait for a condition of the page. Playwright's own waiting compiles strings there, which its policy forbids."""
    wait_for(lambda: page.evaluate(expression), what=expression)


def violations(page: Any) -> list[str]:
    """What axe finds wrong with a page."""
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [f"{one['id']}: {node['html'][:200]}" for one in found["violations"] for node in one["nodes"]]


def walk(page: Any, most: int = 200) -> list[str]:
    """Press Tab until the focus comes round; what could not be reached, or does not show that it has the focus."""
    page.evaluate("document.activeElement?.blur()")
    page.evaluate(FOCUSABLE)
    hidden: list[str] = []
    for _ in range(most):
        page.keyboard.press("Tab")
        said = page.evaluate(MARK)
        if said == "again":
            break
        if said not in ("", "new"):  # "": past the end of the page, from where it begins anew
            hidden.append(f"no focus shown: {said[:200]}")
    return hidden + list(page.evaluate(UNREACHED))
