"""Every error of nats-py has one name of ours: it is not there, somebody was first, it is full, nobody could say."""

import nats.errors
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.js import errors as js

from stoker.services.bus.errors import (
    BusError,
    CannotConnect,
    Conflict,
    DiskFull,
    Missing,
    NoAnswer,
    NobodyThere,
    Refused,
    StreamFull,
    named,
    of,
    of_code,
)
from stoker.services.process.running import CannotStart


def api(kind: type[js.APIError], code: int = 0, description: str = "x") -> js.APIError:
    return kind(code=kind.code if hasattr(kind, "code") else 400, description=description, err_code=code)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (js.KeyWrongLastSequenceError("x"), Conflict),
        (js.NoKeysError(), Missing),
        (js.BucketNotFoundError(), Missing),
        (js.KeyNotFoundError(), Missing),
        (js.KeyDeletedError(), Missing),
        (js.ObjectNotFoundError(), Missing),
        (js.ObjectDeletedError(), Missing),
        (api(js.NotFoundError, 10059), Missing),
        (api(js.ServiceUnavailableError, 10008), NoAnswer),
        (js.NoStreamResponseError(), NoAnswer),
        (api(js.BadRequestError, 10071), Conflict),
        (api(js.BadRequestError, 10077), StreamFull),
        (api(js.BadRequestError, 10058), Refused),
        (nats.errors.NoRespondersError(), NobodyThere),
        (nats.errors.TimeoutError(), NoAnswer),
        (TimeoutError(), NoAnswer),
        (nats.errors.ConnectionClosedError(), BusError),
        (ConnectionResetError("reset"), BusError),
    ],
)
def test_an_error_has_its_name_and_says_what_was_being_done(error: Exception, kind: type[BusError]) -> None:
    found = of(error, "reading x")
    assert type(found) is kind
    assert str(found).startswith("reading x")


def test_an_error_of_ours_stays_what_it_is() -> None:
    error = Conflict("first")
    assert of(error, "again") is error


def test_an_error_without_words_says_its_type() -> None:
    assert str(of(OSError(), "reading")) == "reading: OSError"


@pytest.mark.parametrize(
    ("code", "description", "kind"),
    [
        (10071, "wrong last sequence: 3", Conflict),
        (10047, "insufficient storage resources available", DiskFull),
        (10077, "maximum messages exceeded", StreamFull),
        (10122, "message size exceeds maximum allowed", StreamFull),
        (10999, "maximum bytes exceeded", StreamFull),
        (10052, "invalid", Refused),
        (0, "", Refused),
    ],
)
def test_a_code_of_jetstream_is_a_refusal_with_a_name(code: int, description: str, kind: type[Refused]) -> None:
    found = of_code(code, description)
    assert type(found) is kind
    assert description in str(found)


def test_a_refusal_without_a_name_keeps_its_code() -> None:
    assert str(of_code(10052, "bad config")) == "bad config (10052)"


@given(st.integers(), st.text(max_size=20))
def test_every_code_means_that_it_did_not_take_effect(code: int, description: str) -> None:
    assert isinstance(of_code(code, description), Refused)


@pytest.mark.parametrize("error", [nats.errors.Error("x"), js.Error("x"), TimeoutError(), OSError("x")])
def test_inside_named_errors_are_ours_and_keep_their_cause(error: Exception) -> None:
    with pytest.raises(BusError, match="doing it") as raised, named("doing it"):
        raise error
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("x"), Missing("x"), KeyboardInterrupt()])
def test_inside_named_other_errors_pass_as_they_are(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, named("doing it"):
        raise error
    assert raised.value is error


def test_absence_and_refusal_are_certain_and_the_rest_is_not() -> None:
    assert not issubclass(Missing, Refused)
    assert not issubclass(NoAnswer, Refused) and not issubclass(NobodyThere, Refused)
    assert issubclass(CannotConnect, CannotStart), (
        "a service that cannot connect ends with a reason, not a traceback"
    )
