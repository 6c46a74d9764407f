"""Benchmarks, each run as `python -m bench.NAME`."""

import sys

from bench.arguments import end_quietly

if sys.argv[0] == "-m":  # until Python knows the file of the module that is to be run
    sys.excepthook = end_quietly
