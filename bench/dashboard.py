"""The dashboard with 1,000 workers and 200 models in a real Chromium: milliseconds for each update.

python -m bench.dashboard (needs Chromium and `.[browser]`)

The page is that of a running gateway; workers, models and a day's history are made up in the browser, below the
event streams, so that what is measured is what the browser has to do: take in an update, draw, and lay out.
"""

import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

from bench.arguments import nothing
from bench.system import running

WORKERS, MODELS, HELD, CHANGED = 1000, 200, 6, 200
UPDATES = 40
GOAL_MS = 50.0

FLEET = Path(__file__).parent / "dashboard_fleet.js"

TIMELINE = Path(__file__).parent / "dashboard_timeline.js"


def chromium() -> str:
    return shutil.which("chromium") or shutil.which("chromium-browser") or ""


def measure_in(page: Any, url: str, updates: int = UPDATES) -> dict[str, Any]:
    """Milliseconds for each update, of the fleet's page and of the time axis."""
    page.goto(url)
    page.locator("tr.live").first.wait_for()
    fleet = page.evaluate(FLEET.read_text(), [WORKERS, MODELS, HELD, CHANGED, updates])
    hour = page.evaluate(TIMELINE.read_text(), [WORKERS, updates, 5000, 3600])
    day = page.evaluate(TIMELINE.read_text(), [WORKERS, updates, 0, 24 * 3600])
    return {"first": fleet["first"], "rows": fleet["rows"], "fleet": fleet["each"], "hour": hour, "day": day}


def measure(url: str) -> dict[str, Any]:
    """The same in a browser of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        found = measure_in(browser.new_page(viewport={"width": 1280, "height": 900}), url)
        browser.close()
    return found


def p95(each: list[float]) -> float:
    return sorted(each)[max(int(len(each) * 0.95) - 1, 0)]


def report() -> list[str]:
    if not chromium():
        return ["Not measured: there is no Chromium here."]
    with running() as system:
        found = measure(f"http://127.0.0.1:{system.port}")
    rows = {
        f"fleet: {CHANGED} workers and {MODELS} models change": found["fleet"],
        "timeline, one hour: 5,000 jobs in 1,000 lanes": found["hour"],
        "timeline, 24 hours: how busy 1,000 workers were": found["day"],
    }
    return [
        f"{WORKERS:,} workers with {HELD} of {MODELS} models in memory; goal {GOAL_MS:g} ms. All at once, at "
        f"the beginning: {found['first']:.0f} ms. Rows in the page: {found['rows']}.",
        "",
        "| an update | median ms | 95 of 100 | longest |",
        "|---|---|---|---|",
        *(
            f"| {name} | {statistics.median(each):.1f} | {p95(each):.1f} | {max(each):.1f} |"
            for name, each in rows.items()
        ),
    ]


if __name__ == "__main__":
    nothing(__doc__)
    sys.stdout.write("\n".join(report()) + "\n")
