"""API keys: who is let in, what is counted, what is another's."""

import pytest
from msgspec.structs import replace

from stoker.schemas.keys import ROLES, ApiKey
from stoker.services.gateway.edge.access import (
    Access,
    check_model,
    check_role,
    current_key,
    is_visible,
    may_use,
)
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.records.keys import digest, new_secret

SECRET = "sk-stoker-abc"
KEY = ApiKey("k1", "test", digest(SECRET), 0.0)


def access(key: ApiKey = KEY, *, is_required: bool = True) -> Access:
    found = Access(is_required=is_required)
    found.changed(key.id, key)
    return found


def test_a_key_is_needed_where_keys_are_and_must_be_valid() -> None:
    keys = access()
    assert keys.identify(f"Bearer {SECRET}") == KEY
    for wrong in ("", "Bearer ", "Basic abc", "Bearer sk-stoker-abd"):
        with pytest.raises(RequestError) as refused:
            keys.identify(wrong)
        assert refused.value.status == 401
    assert access(is_required=False).identify("") is None
    assert access(is_required=False).identify("Bearer none") is None


def test_a_revoked_or_removed_key_is_of_no_use() -> None:
    keys = access()
    keys.changed("k1", replace(KEY, revoked_at=1.0))
    with pytest.raises(RequestError):
        keys.identify(f"Bearer {SECRET}")
    keys.changed("k1", KEY)
    keys.changed("k1", None)
    with pytest.raises(RequestError):
        keys.identify(f"Bearer {SECRET}")


def test_a_role_may_do_what_those_before_it_may() -> None:
    for at, role in enumerate(ROLES):
        token = current_key.set(replace(KEY, role=role))
        try:
            for number, needed in enumerate(ROLES):
                if number <= at:
                    check_role(needed)
                else:
                    with pytest.raises(RequestError, match="this needs a key of the role") as refused:
                        check_role(needed)
                    assert refused.value.status == 403
            assert is_visible("k2") == (role != "use"), "who operates sees everybody's jobs"
        finally:
            current_key.reset(token)
    check_role("admin")


def test_models_and_jobs_of_others_are_out_of_reach() -> None:
    token = current_key.set(replace(KEY, models=("a",)))
    try:
        check_model("a")
        assert may_use("a") and not may_use("b")
        with pytest.raises(RequestError, match="may not use 'b'; it may use a"):
            check_model("b")
        assert is_visible("k1")
        assert not is_visible("k2")
    finally:
        current_key.reset(token)
    assert is_visible("k2")


def test_secrets_are_long_and_only_their_hash_is_kept() -> None:
    secrets = {new_secret()[1] for _ in range(100)}
    assert len(secrets) == 100
    assert min(map(len, secrets)) > 50
    assert SECRET not in str(KEY)
