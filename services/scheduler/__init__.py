"""The scheduler: decides which worker runs each job.

`core.py` is the machine, `service.py` its shell; `jobs/`, `fleet/` and `placing/` are what it decides with,
`protocol/` what goes in and comes out. Only `service.py` and `feed.py` touch NATS.
"""
