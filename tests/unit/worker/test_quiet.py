"""What libraries of models warn of does not reach the terminal, unless somebody asks for it."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SCRIPT = """
import os, warnings
from stoker.services.worker.runner.quiet import quiet_libraries
quiet_libraries()
for module in ("torchvision.io.image", "transformers", "ours.transformers"):
    warnings.warn_explicit(f"of {module}", UserWarning, "file.py", 1, module=module)
print(os.environ["TRANSFORMERS_VERBOSITY"])
"""


@pytest.mark.parametrize(("given", "found"), [({}, "error"), ({"TRANSFORMERS_VERBOSITY": "info"}, "info")])
def test_libraries_are_quiet_unless_somebody_wants_to_hear_them(given: dict[str, str], found: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_VERBOSITY"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT],
        env={**kept, **given},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.strip() == found
    assert done.stderr.count("UserWarning") == 1 and "of ours.transformers" in done.stderr
