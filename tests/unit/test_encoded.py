"""base64 inside JSON and forms, as people send it."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.services.gateway.edge.encoded import decoded
from stoker.services.gateway.edge.forms import read_form
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.text.ollama_text import _data_url

CONTENT = bytes(range(256)) * 2
PLAIN = base64.b64encode(CONTENT).decode()
FORM = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n--b--\r\n'


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        base64.encodebytes(CONTENT).decode(),
        PLAIN.replace("AAEC", "AA EC\r\n"),
        base64.urlsafe_b64encode(CONTENT).decode(),
        PLAIN.rstrip("="),
        f"data:image/png;base64,{PLAIN}",
        f"DATA:image/png;name=a.png;BASE64,\n{base64.encodebytes(CONTENT).decode()}",
        f"  data:;base64,{PLAIN}\n",
    ],
)
def test_base64_is_taken_as_it_is_sent(text: str) -> None:
    assert decoded(text) == CONTENT


@pytest.mark.parametrize(
    "text", ["", "no picture!", "data:image/png,plain", "data:image/png;base64,", "data:", "a", "ä==="]
)
def test_what_is_none_is_empty(text: str) -> None:
    assert decoded(text) == b""


@given(st.binary(min_size=1, max_size=200), st.integers(1, 80))
def test_lines_of_any_length_are_joined(content: bytes, width: int) -> None:
    text = base64.b64encode(content).decode()
    assert decoded("\n".join(text[at : at + width] for at in range(0, len(text), width))) == content


@given(st.text(max_size=80))
def test_any_text_is_bytes_or_nothing(text: str) -> None:
    assert isinstance(decoded(text), bytes)


def test_a_form_may_hold_a_picture_as_text() -> None:
    form = read_form(
        "multipart/form-data; boundary=b", FORM % (b"image", f"data:image/png;base64,{PLAIN}".encode())
    )
    assert form.file("image") == CONTENT
    assert form.has_file("image") and not form.has_file("mask")
    junk = read_form("multipart/form-data; boundary=b", FORM % (b"image", b"!"))
    with pytest.raises(RequestError, match="image is empty: send a picture"):
        junk.file("image")


def test_pictures_for_ollama_may_be_data_urls_and_have_lines() -> None:
    wanted = f"data:image/png;base64,{PLAIN}"
    assert _data_url(PLAIN) == _data_url(base64.encodebytes(CONTENT).decode()) == _data_url(wanted) == wanted
