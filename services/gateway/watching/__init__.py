"""Events of jobs on their way to who waits for them.

`resume.py` is pure: a reader's place. `waiting.py` is who waits, `watcher.py` one reader's queue, `streams.py`
the subscriptions, `reconciling.py` looks for what no subscription told. Called by routes and by `jobs/`.
"""
