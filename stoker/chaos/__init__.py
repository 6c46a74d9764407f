"""`stoker chaos`: mixed requests to an installation whose processes are killed, paused and cut off meanwhile.

`plan.py` says what happens when (pure, by a seed), `system.py` runs the processes, `faults.py` does it to them
through signals and `proxy.py`; `traffic.py` asks as clients do, and writes into the ledger what it was told;
`ledger.py` judges that (pure), and `report.py` puts it into words.
"""
