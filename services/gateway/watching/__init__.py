"""Events of jobs on their way to who waits for them.

`resume.py` is pure; `streams.py` has the subscriptions. Called by routes and by `jobs/`.
"""
