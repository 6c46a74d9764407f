"""Pages of OpenAI's lists: so many after the last of the page before. Pure."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from stoker.services.gateway.edge.problems import RequestError

T = TypeVar("T")


def page_of(
    found: Sequence[T], name: Callable[[T], str], after: str, limit: int, most: int
) -> tuple[Sequence[T], bool]:
    """A page of what was found, and whether there are more. after: the name of the last before, "" for none.

    Raises RequestError 400 for a limit that is not 1 to `most`, and for a name that is not there.
    """
    if not 1 <= limit <= most:
        raise RequestError(400, f"limit must be 1 to {most}, not {limit}", field="limit", code="invalid_value")
    first = 0
    if after:
        names = [name(one) for one in found]
        if after not in names:
            message = f"after: {after!r} is not in this list"
            raise RequestError(400, message, field="after", code="invalid_value")
        first = names.index(after) + 1
    return found[first : first + limit], first + limit < len(found)
