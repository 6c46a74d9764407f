"""A clock that never steps: seconds since 1970 as they were when the process began, and what has passed since.

Wall clocks are set, by people and by NTP. A core that measured silence on one would lose every worker when it
is set ahead. So decisions are made on this clock; it differs from the wall clock by what that was set since the
start.
"""

import time

_OFFSET_S = time.time() - time.monotonic()


def steady_now() -> float:
    """Seconds since 1970; never goes back, never jumps."""
    return time.monotonic() + _OFFSET_S
