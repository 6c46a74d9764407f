"""How many event streams may be open, of all and of one key."""

from contextlib import ExitStack

import pytest

from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.edge.sse import StreamLimit


def refused(limit: StreamLimit, key: str) -> str:
    with pytest.raises(RequestError) as error, limit.opened(key):
        pass
    assert (error.value.status, error.value.code) == (429, "too_many_streams")
    return str(error.value)


def test_one_key_leaves_some_to_the_others() -> None:
    limit = StreamLimit(20)
    with ExitStack() as stack:
        for _ in range(18):
            stack.enter_context(limit.opened("ada"))
        assert "18 streams of this key" in refused(limit, "ada")
        for key in ("bob", "eve"):
            stack.enter_context(limit.opened(key))
        assert "20 streams are open" in refused(limit, "zoe")
    assert limit.open == 0
    with limit.opened("ada"):
        assert limit.open == 1


def test_where_no_keys_are_used_all_are_anybodys() -> None:
    limit = StreamLimit(20)
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(limit.opened(""))
        assert "20 streams are open" in refused(limit, "")


def test_a_limit_of_one_is_one() -> None:
    limit = StreamLimit(1)
    with limit.opened("ada"):
        assert "1 streams are open" in refused(limit, "ada")
