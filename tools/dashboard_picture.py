"""Makes docs/dashboard.png: the demo at work, as a browser shows it. `python -m tools.dashboard_picture`

It needs Chromium and `.[browser]`. Jobs are sent for a while, one is cancelled, the configuration is changed
once: then the time axis has something to show.
"""

import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import DEMO, ROOT, System
from tests.system.browsing import chromium, open_page

PICTURE = ROOT / "docs" / "dashboard.png"
CONFIGURATION = """\
models:
  demo-chat:
    engine: llamacpp
    url: file://{demo}/chat.gguf
    options: {{n_ctx: 256}}
    defaults: {{temperature: 0, max_tokens: 96}}
  demo-image:
    engine: diffusers
    url: file://{demo}/image
    defaults: {{num_inference_steps: 20, guidance_scale: 3.0, width: 32, height: 32}}
  slow: {{engine: synthetic, options: {{tokens: 60, token_interval_s: 0.05}}, slots: 2}}
workers:
  - {{profile: cpu, count: 2, memory: 512MB, engines: [llamacpp, diffusers, synthetic]}}
"""
ROUNDS = 8
PATIENCE_S = 120.0


def work(system: System, file: Path) -> None:
    """Something for every lane."""
    for turn in range(ROUNDS):
        models = ("demo-image", "demo-chat", "slow", "slow", "slow")
        jobs = [system.submit(model, f"red {turn}") for model in models]
        if turn == 2:
            system.post(f"/v1/jobs/{jobs[-1]}/cancel", None)
        if turn == 4:
            file.write_text(file.read_text().replace("tokens: 60", "tokens: 50"))
        for job in jobs:
            system.ended(job, PATIENCE_S)
    time.sleep(12)  # until the last sample is there


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "stoker.yaml"
        file.write_text(CONFIGURATION.format(demo=DEMO))
        system = System(Path(folder) / "up", file)
        try:
            system.wait_ready()
            work(system, file)
            with chromium() as browser:
                page = open_page(browser, system.url + "/timeline?span=90", [])
                page.locator("#lanes").focus()
                for key in ("ArrowDown", "ArrowDown", "ArrowLeft"):
                    page.keyboard.press(key)
                page.wait_for_timeout(1500)
                page.screenshot(path=str(PICTURE))
        finally:
            system.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
