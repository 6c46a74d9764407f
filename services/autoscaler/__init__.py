"""The autoscaler: decides how many replicas of each spec run, and has them launched.

`plan.py` decides and is pure, `core.py` keeps what is known, `launchers/` start and stop workers,
`service.py` is the shell on NATS.
"""
