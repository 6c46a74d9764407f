"""The workers as the scheduler knows them, and what was learned of their times. Pure.

Called by the core and by placing.
"""
