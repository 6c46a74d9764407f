"""From a validated request to a stored job, and from a terminal event to an answer.

Called by routes; `requests.py`, `function_calls.py` and `discovered.py` are pure.
"""
