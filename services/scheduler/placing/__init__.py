"""Where a job goes: candidates with their predicted times, balancing, prefix hashing, dispatch. Pure.

Reads jobs and fleet; called by the core.
"""
