"""A user of the dashboard who has a keyboard only: what is reached with Tab, and what is seen of it."""

import re
from pathlib import Path
from typing import Any

from tests.conftest import wait_for
from tests.system.browsing import violations

MOST = 250
"""Presses of Tab until something is called unreachable."""

FOCUSED = """() => {
  const one = document.activeElement;
  if (!one || one === document.body) return null;
  const label = one.labels?.[0]?.innerText || one.getAttribute("aria-label") || one.innerText || "";
  const style = getComputedStyle(one), box = one.getBoundingClientRect();
  const shows = (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2) || style.boxShadow !== "none";
  return {
    tag: one.tagName.toLowerCase(), id: one.id, name: label.trim().replace(/\\s+/g, " "),
    shows, isInView: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
    html: one.outerHTML.slice(0, 160),
  };
}"""


class Keyboard:
    """Presses keys on a page; `told`: focus that was not shown, or was outside of what is seen; `choosers`:
    dialogs for files that the browser has opened."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.told: list[str] = []
        self.choosers: list[Any] = []
        page.on("filechooser", lambda chooser: self.choosers.append(chooser))  # Playwright marks it

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def tab_to(self, name: str, tag: str = "", *, back: bool = False) -> None:
        """Press Tab until what is called `name` (a regular expression for all of it) has the focus."""
        seen: list[str] = []
        for _ in range(MOST):
            self.press("Shift+Tab" if back else "Tab")
            found = self.page.evaluate(FOCUSED)
            if found is None:
                continue
            if not (found["shows"] and found["isInView"]):
                self.told.append(f"{self.page.url}: {found['html']}")
            if re.fullmatch(name, found["name"]) and tag in ("", found["tag"]):
                return
            seen.append(f"{found['tag']} {found['name'][:30]}")
        raise AssertionError(f"{name} is not reached with Tab on {self.page.url}: {seen[-40:]}")

    def go(self, link: str) -> None:
        """To another page by its link."""
        self.tab_to(link, "a")
        self.press("Enter")

    def choose_file(self, file: Path) -> None:
        """For the field that has the focus."""
        before = len(self.choosers)
        self.press("Enter")
        wait_for(
            lambda: self.page.evaluate("true") and len(self.choosers) > before, what="the browser's dialog"
        )
        self.choosers[-1].set_files(file)

    def type(self, text: str) -> None:
        self.page.keyboard.type(text)

    def choose(self, value: str) -> None:
        """In the list that has the focus, with arrows only."""
        self.press("Home")
        for _ in range(60):
            if self.page.evaluate("document.activeElement.value") == value:
                return
            self.press("ArrowDown")
        raise AssertionError(f"{value} is no choice of {self.page.evaluate(FOCUSED)}")

    def focus_is(self, expression: str) -> None:
        """Wait until the focused element is so."""
        wait_for(lambda: self.page.evaluate(f"(({expression}))(document.activeElement)"), what=expression)

    def check(self) -> None:
        """axe finds nothing in light, dark and on a small screen, and nothing lies outside of it."""
        page, size = self.page, self.page.viewport_size
        for scheme, width in (("light", size["width"]), ("dark", size["width"]), ("dark", 390), ("light", 390)):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": size["height"]})
            assert violations(page) == [], f"{page.url}, {scheme}, {width}"
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{page.url}, {width}"
        page.set_viewport_size(size)
        page.emulate_media(color_scheme="light")
