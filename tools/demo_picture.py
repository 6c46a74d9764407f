"""Makes docs/demo.png: what demo-image draws, in a row. `python -m tools.demo_picture`"""

import base64
import io
import tempfile
from pathlib import Path

from PIL import Image

from tests.conftest import DEMO, ROOT, System

PICTURE = ROOT / "docs" / "demo.png"
PROMPTS = ("red seven", "blue three", "green five", "yellow two", "purple eight", "orange four", "white zero")
SEED = 7
EDGE = 96


def main() -> None:
    row = Image.new("RGB", (EDGE * len(PROMPTS), EDGE))
    with tempfile.TemporaryDirectory() as folder:
        system = System(Path(folder), DEMO / "stoker.yaml")
        try:
            system.wait_ready()
            for index, prompt in enumerate(PROMPTS):
                body = {"model": "demo-image", "prompt": prompt, "seed": SEED, "response_format": "b64_json"}
                answer = system.post("/v1/images/generations", body).raise_for_status()
                png = base64.b64decode(answer.json()["data"][0]["b64_json"])
                row.paste(Image.open(io.BytesIO(png)).resize((EDGE, EDGE)), (index * EDGE, 0))
        finally:
            system.stop()
    row.save(PICTURE, optimize=True)
    print(f"{PICTURE}: {', '.join(PROMPTS)}")


if __name__ == "__main__":
    main()
