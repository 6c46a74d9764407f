"""A worker: holds models in memory and runs jobs on them.

`agent.py` is its shell on NATS; `jobs/` what becomes of an assignment, `models/` what is in memory, `runner/`
the child process, `engines/` what computes inside it.
"""
