"""From the command to the first token: `stoker run FILE "hi"`, from nothing and with everything warm.

    python -m bench.first_token [FILE.gguf]

The command is started as a shell would; the clock stops at the first byte on its standard output.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.arguments import paths

DEMO = Path(__file__).parent.parent / "examples" / "demo" / "chat.gguf"
RUNS = 15
STOKER = Path(sys.executable).parent / "stoker"


def first_byte_s(file: Path, environment: dict[str, str]) -> float:
    """Seconds from the start of the command to its first byte of an answer."""
    began = time.perf_counter()
    command = [str(STOKER), "run", str(file), "hi", "--max-tokens", "8"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as asked:
        assert asked.stdout is not None
        first = asked.stdout.read(1)
        taken = time.perf_counter() - began
        asked.stdout.read()
    if not first or asked.returncode:
        sys.exit(f"{' '.join(command)} gave no answer")
    return taken


def main() -> None:
    [file] = paths(__doc__, 0, 1) or [DEMO]
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "XDG_STATE_HOME": home, "XDG_CONFIG_HOME": home}
        try:
            print(f"{file.name}: from nothing {first_byte_s(file, environment):.2f} s")
            warm = sorted(first_byte_s(file, environment) for _ in range(RUNS))
            median, worst = statistics.median(warm), warm[-1]
            print(f"{file.name}: warm, {RUNS} runs: median {median:.2f} s, worst {worst:.2f} s")
        finally:
            subprocess.run([str(STOKER), "stop"], env=environment, check=False, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
