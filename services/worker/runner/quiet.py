"""Libraries of models warn at every start, of what nobody who asks a model can do anything about.

What is wrong with a model is an error, and comes as one. Whoever wants to read it all sets the variables.
"""

import os
import warnings

VARIABLES = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}
PACKAGES = ("torchvision", "transformers", "diffusers")


def quiet_libraries() -> None:
    """Have them say errors only. Before any of them is imported."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    for package in PACKAGES:
        warnings.filterwarnings("ignore", module=rf"{package}(\.|$)")
