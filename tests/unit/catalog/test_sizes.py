"""Sizes of memory and local files: what people write, what it means, what is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.services.catalog.documents import ConfigurationError, Document
from stoker.services.catalog.files import absolute, size_bytes
from stoker.services.catalog.sizes import MAX_BYTES, parse_size, read_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1", 1),
        ("1000000", 1_000_000),
        ("1B", 1),
        ("1K", 1000),
        ("1KB", 1000),
        ("1Ki", 1024),
        ("1KiB", 1024),
        ("1kib", 1024),
        ("512MB", 512_000_000),
        ("2G", 2_000_000_000),
        ("2GiB", 2 * 1024**3),
        ("1.5GB", 1_500_000_000),
        ("0.5Gi", 1024**3 // 2),
        ("3T", 3 * 10**12),
        ("  8 GB ", 8_000_000_000),
        ("8 gb", 8_000_000_000),
    ],
)
def test_a_size_is_read_as_people_write_it(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", " ", "GB", "-1", "-1GB", "1.GB", ".5GB", "1e9", "1,5GB", "1 000", "2GBs", "2P", "huge", "nan", "1G B"],
)
def test_what_is_no_size_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write 512MB or 2GB") as refused:
        parse_size(text)
    assert repr(text) in str(refused.value)


@given(
    st.one_of(st.integers(0, 9000), st.integers(0, 10**17)),
    st.sampled_from(["", "K", "M", "G", "T"]),
    st.sampled_from(["", "B"]),
)
def test_whole_numbers_are_exact_up_to_the_precision_of_a_float(number: int, unit: str, last: str) -> None:
    expected = number * 1000 ** " KMGT".index(unit or " ")
    if expected > MAX_BYTES:
        with pytest.raises(ValueError, match="is more than any machine has"):
            parse_size(f"{number}{unit}{last}")
    else:
        assert parse_size(f"{number}{unit}{last}") == pytest.approx(expected, rel=1e-12)


@given(st.text(max_size=12))
def test_any_text_is_a_size_of_zero_or_more_or_a_value_error(text: str) -> None:
    try:
        assert parse_size(text) >= 0
    except ValueError as error:
        assert "is not a size" in str(error) or "is more than any machine has" in str(error)


DOCUMENT = Document(Path("m.yaml"), {}, {("models",): 1, ("models", "a"): 2, ("models", "a", "memory"): 5})


def test_a_number_in_a_document_is_bytes_and_a_text_is_parsed() -> None:
    assert read_size(DOCUMENT, ("models", "a", "memory"), 77) == 77
    assert read_size(DOCUMENT, ("models", "a", "memory"), "2KB") == 2000


@pytest.mark.parametrize("size", ["much", -1, -(10**9)])
def test_a_bad_size_in_a_document_has_its_place(size: int | str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^m\.yaml:5: models\.a\.memory: .*is not a size; write"
    ) as refused:
        read_size(DOCUMENT, ("models", "a", "memory"), size)
    assert refused.value.field == "models.a.memory"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", ""),
        ("hf://owner/name", "hf://owner/name"),
        ("ollama://x", "ollama://x"),
        ("s3://bucket/x", "s3://bucket/x"),
        ("/m/x.gguf", "file:///m/x.gguf"),
        ("file:///m/x.gguf", "file:///m/x.gguf"),
        ("x.gguf", "file:///conf/x.gguf"),
        ("./x.gguf", "file:///conf/x.gguf"),
        ("../x.gguf", "file:///x.gguf"),
        ("file://x.gguf", "file:///conf/x.gguf"),
    ],
)
def test_a_path_is_relative_to_the_file_it_stands_in(url: str, expected: str) -> None:
    assert absolute(Path("/conf/stoker.yaml"), url) == expected


def test_the_home_folder_is_written_as_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert absolute(Path("/conf/stoker.yaml"), "~/m.gguf") == "file:///home/somebody/m.gguf"


def test_an_absolute_path_stays_as_it_is_when_taken_again() -> None:
    once = absolute(Path("/conf/stoker.yaml"), "models/x")
    assert absolute(Path("/elsewhere/stoker.yaml"), once) == once


def test_weights_are_measured_where_they_are_here_and_are_zero_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "x").write_bytes(b"x" * 10)
    (tmp_path / "a" / "b" / "y").write_bytes(b"y" * 5)
    assert size_bytes(f"file://{tmp_path}/a/x") == 10
    assert size_bytes(f"file://{tmp_path}/a") == 15
    assert size_bytes(f"file://{tmp_path}/none") == 0
    assert size_bytes("hf://owner/name") == 0
    assert size_bytes("") == 0
