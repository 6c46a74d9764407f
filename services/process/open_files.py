"""How many files and connections this process may have open: as many as it is allowed to ask for.

Where nobody says otherwise that is 1,024 on Linux and 256 on macOS, for the sake of programs that call
`select`, which knows no higher numbers. None of ours does, and a stream is a connection.
"""

import contextlib
import resource

ENOUGH = 1 << 20
"""Asked for where there is no limit: some systems refuse to be asked for more."""


def raise_limit() -> None:
    """Take what the hard limit allows, from now on and for processes that are started."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if most == resource.RLIM_INFINITY else min(most, ENOUGH)
    if now != resource.RLIM_INFINITY and now < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS says no limit, and takes 10,240
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def allowed() -> int:
    """How many this process may have open."""
    now, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ENOUGH if now == resource.RLIM_INFINITY else now
