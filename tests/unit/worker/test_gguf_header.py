"""What a GGUF file says of itself, read without its arrays; a file that ends early is no GGUF."""

from pathlib import Path

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.services.worker.engines.text.gguf_header import BadGguf, read_header
from tests.fixtures.text_models import CHAT


def test_the_scalars_are_those_that_the_format_s_own_library_reads() -> None:
    found = read_header(CHAT)
    reader = gguf.GGUFReader(CHAT)
    scalars = {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.") and gguf.GGUFValueType.ARRAY not in field.types
    }
    assert found == scalars
    assert found["general.architecture"] == "llama"


def test_every_kind_of_value_is_read_and_arrays_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, arch="llama")
    writer.add_uint8("a.u8", 200)
    writer.add_int8("a.i8", -3)
    writer.add_uint16("a.u16", 60_000)
    writer.add_int16("a.i16", -3000)
    writer.add_int32("a.i32", -(10**9))
    writer.add_float32("a.f32", 0.5)
    writer.add_float64("a.f64", 0.25)
    writer.add_uint64("a.u64", 2**60)
    writer.add_int64("a.i64", -(2**60))
    writer.add_bool("a.bool", True)
    writer.add_array("a.texts", ["one", "two"])
    writer.add_array("a.numbers", [1, 2, 3])
    writer.add_string("a.text", "größer")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    found = read_header(path)
    assert found["a.text"] == "größer", "what follows the arrays is found"
    assert (found["a.u8"], found["a.i8"], found["a.u16"], found["a.i16"]) == (200, -3, 60_000, -3000)
    assert (found["a.i32"], found["a.u64"], found["a.i64"]) == (-(10**9), 2**60, -(2**60))
    assert (found["a.f32"], found["a.f64"], found["a.bool"]) == (0.5, 0.25, True)
    assert "a.texts" not in found and "a.numbers" not in found


def test_what_is_no_gguf_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(BadGguf, match="not a GGUF"):
        read_header(path)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cut") / "cut.gguf"


@settings(max_examples=60)
@given(cut=st.integers(4, 2000), noise=st.binary(max_size=8))
def test_a_header_that_is_cut_off_or_spoilt_is_refused_or_read(path: Path, cut: int, noise: bytes) -> None:
    path.write_bytes(CHAT.read_bytes()[:cut] + noise)
    try:
        found = read_header(path)
    except BadGguf as error:
        assert str(error)
    else:
        assert found == read_header(CHAT), "a header is read whole or not at all"
