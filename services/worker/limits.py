"""Limits of a worker that its settings may change."""

LIMIT_S = 8.0
"""How long a runner may say nothing before it is ended."""
STOP_GRACE_S = 10.0
"""An engine that does not stop this long after it was told to is ended, if nothing else lives in its process
and no step of these weights has taken as long.
"""
PACE_KEPT_S = 3.0
"""What a gateway has said of its pace holds so long; it says it each second."""
