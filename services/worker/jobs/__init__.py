"""The attempts of this worker: states and slots, events, how they end, what they bring along.

Called by the agent. `core.py` and `event_log.py` are pure.
"""
