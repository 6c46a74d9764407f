"""Starting up and resting: seconds until ready and until a first token, and memory of each process.

python -m bench.rest
"""

import json
import time

import httpx

from bench.arguments import nothing
from bench.system import running

REST_S = 3.0


def report() -> list[str]:
    began = time.perf_counter()
    with running() as system:
        ready_s = time.perf_counter() - began
        body = json.dumps({"model": "echo", "messages": [{"role": "user", "content": "x"}], "stream": True})
        asked = time.perf_counter()
        with httpx.stream(
            "POST", f"http://127.0.0.1:{system.port}/v1/chat/completions", content=body
        ) as answer:
            next(answer.iter_raw())
            first_s = time.perf_counter() - asked
        time.sleep(REST_S)
        memory = system.memory_mb()
    shares = ", ".join(f"{name} {mb:.0f}" for name, mb in sorted(memory.items()))
    return [
        f"- `stoker up` ready after {ready_s:.2f} s; first token of a cold model {1000 * first_s:.0f} ms later",
        f"- resident memory at rest, MB: {shares}",
    ]


if __name__ == "__main__":
    nothing(__doc__)
    print("\n".join(report()))
