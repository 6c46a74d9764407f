"""Weights as files: any header is told apart or refused, and a url leads to a path or to a remedy."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoker.services.worker.models.weights import resolve as resolving
from stoker.services.worker.models.weights.detect import (
    MAX_HEADER_BYTES,
    UnknownCheckpoint,
    detect,
    safetensors_header,
    tensor_shapes,
)
from stoker.services.worker.models.weights.lora import cross_attention_dim, why_unfit
from stoker.services.worker.models.weights.resolve import (
    WeightsError,
    is_cached,
    local_path,
    resolve,
    size_bytes,
)

SAME_FOLDER = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["data_offsets", "shape", "dtype", "x.attn2.to_k.weight", "__metadata__"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=10,
)


def safetensors(path: Path, header: Any, content: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + content)
    return path


def tensor(*shape: int, end: int = 0) -> dict[str, Any]:
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [0, end]}


@SAME_FOLDER
@given(header=JSON)
def test_whatever_a_header_says_it_is_read_or_refused_with_the_name(tmp_path: Path, header: Any) -> None:
    path = safetensors(tmp_path / "x.safetensors", header)
    for read in (detect, cross_attention_dim):
        try:
            read(path)
        except UnknownCheckpoint as error:
            assert "x.safetensors" in str(error)


@SAME_FOLDER
@given(content=st.binary(max_size=60))
def test_whatever_a_file_holds_it_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\x05" + content)
    with pytest.raises(UnknownCheckpoint, match=r"x\.safetensors"):
        detect(path)


@pytest.mark.parametrize(
    "header",
    [
        [], 33, None, "x", {"a": 1}, {"a": {}}, {"a": {"shape": [1]}}, {"a": {"data_offsets": [0, 0]}},
        {"a": {"shape": [1], "data_offsets": []}}, {"a": {"shape": 1, "data_offsets": [0, 0]}},
        {"a": {"shape": "12", "data_offsets": [0, 0]}}, {"a": {"shape": [1.5], "data_offsets": [0, 0]}},
        {"a": {"shape": [None], "data_offsets": [0, 0]}}, {"a": {"shape": [1], "data_offsets": [0, "x"]}},
        b'{"a": {"shape": [1], "data_offsets": [0, 1e999]}}', b"{ ", b"[" * 100_000, b"\xff\xff", b'{"a": {"shape": [1], "data_offsets": {"1": 0}}}',
    ],
)  # fmt: skip
def test_a_header_of_another_shape_is_no_safetensors_file(tmp_path: Path, header: Any) -> None:
    with pytest.raises(UnknownCheckpoint, match=r"x\.safetensors is not a safetensors file"):
        safetensors_header(safetensors(tmp_path / "x.safetensors", header))


@pytest.mark.parametrize("length", [0, 1, MAX_HEADER_BYTES + 1, 2**64 - 1])
def test_a_header_of_no_possible_length_is_refused_without_reading_it(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(UnknownCheckpoint, match="neither a safetensors file nor a checkpoint"):
        safetensors_header(path)


@pytest.mark.parametrize("content", [b"", b"1234567", b"123456789"])
def test_a_file_must_be_as_long_as_its_header_promises(tmp_path: Path, content: bytes) -> None:
    path = safetensors(tmp_path / "x.safetensors", {"a": tensor(2, end=8)}, content)
    with pytest.raises(
        UnknownCheckpoint, match=f"truncated: it has {path.stat().st_size} bytes and its header promises"
    ):
        safetensors_header(path)


def test_a_whole_file_says_its_shapes_and_not_its_metadata(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"a": "b"},
        "x": tensor(2, end=8),
        "scalar": tensor(),
        "y": tensor(1, 2, 3, end=4),
    }
    found = tensor_shapes(safetensors(tmp_path / "x.safetensors", header, b"12345678"))
    assert found == {"x": (2,), "scalar": (), "y": (1, 2, 3)}


@pytest.mark.parametrize("length", [0x80, 0x280, 0x480, 0x100])
@pytest.mark.parametrize("name", ["x.safetensors", "x.ckpt"])
def test_a_header_is_no_pickle_whatever_its_length_begins_with(tmp_path: Path, name: str, length: int) -> None:
    """A length of 128, or 640, begins with the bytes of a pickle."""
    raw = json.dumps({"a": tensor(end=4)}).encode().ljust(length)
    path = tmp_path / name
    path.write_bytes(struct.pack("<Q", length) + raw + b"\0" * 4)
    assert tensor_shapes(path) == {"a": ()}


def test_a_scalar_where_a_matrix_should_be_is_of_unknown_width(tmp_path: Path) -> None:
    header = {
        "model.diffusion_model.attn2.to_k.weight": tensor(),
        "cond_stage_model.transformer.x": tensor(1),
        "lora_attn2_to_k.lora_down.weight": tensor(),
    }
    path = safetensors(tmp_path / "x.safetensors", header)
    assert detect(path).cross_attention_dim is None
    assert cross_attention_dim(path) is None


@pytest.mark.parametrize("name", ["x.ckpt", "x.pt", "x.pth", "x.bin"])
@pytest.mark.parametrize("content", [b"", b"words", b"PK\x03\x04broken", b"\x80\x02broken"])
def test_a_broken_pickle_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnknownCheckpoint, match=name):
        detect(tmp_path / name)


def folder(path: Path, index: Any, unet: Any = None) -> Path:
    path.mkdir(exist_ok=True)
    (path / "model_index.json").write_text(index if isinstance(index, str) else json.dumps(index))
    if unet is not None:
        (path / "unet").mkdir(exist_ok=True)
        (path / "unet" / "config.json").write_text(json.dumps(unet))
    return path


@pytest.mark.parametrize(
    ("index", "unet", "architecture", "name", "dim"),
    [
        ({"_class_name": "StableDiffusionPipeline"}, {"cross_attention_dim": 768}, "sd15", "StableDiffusionPipeline", 768),
        ({"_class_name": "StableDiffusionPipeline"}, {"cross_attention_dim": 1024}, "sd2", "StableDiffusionPipeline", 1024),
        ({"_class_name": "StableDiffusionUpscalePipeline"}, {"cross_attention_dim": 768}, "other", "StableDiffusionUpscalePipeline", 768),
        ({"_class_name": "StableDiffusionXLPipeline", "text_encoder": ["t", "C"]}, None, "sdxl", "StableDiffusionXLPipeline", None),
        ({"_class_name": "StableDiffusionXLPipeline", "text_encoder": [None, None]}, None, "sdxl-refiner", "StableDiffusionXLPipeline", None),
        ({"_class_name": "StableDiffusionXLPipeline"}, None, "sdxl-refiner", "StableDiffusionXLPipeline", None),
        ({"_class_name": "StableDiffusionXLPipeline", "text_encoder": {"a": 1}}, None, "sdxl-refiner", "StableDiffusionXLPipeline", None),
        ({"_class_name": "StableDiffusionXLPipeline", "text_encoder": 3}, None, "sdxl-refiner", "StableDiffusionXLPipeline", None),
        ({"_class_name": "KandinskyV22Pipeline"}, None, "kandinsky22", "KandinskyV22CombinedPipeline", None),
        ({"_class_name": "Kandinsky3Pipeline"}, {"cross_attention_dim": [8, 9]}, "kandinsky3", "Kandinsky3Pipeline", 8),
        ({"_class_name": "FluxPipeline"}, {"cross_attention_dim": "x"}, "other", "FluxPipeline", None),
        ({}, [], "other", "", None),
    ],
)  # fmt: skip
def test_a_pipeline_folder_says_what_it_is(
    tmp_path: Path, index: Any, unet: Any, architecture: str, name: str, dim: int | None
) -> None:
    found = detect(folder(tmp_path / "p", index, unet))
    assert (found.architecture, found.pipeline_class, found.cross_attention_dim, found.is_directory) == (
        architecture,
        name,
        dim,
        True,
    )


@pytest.mark.parametrize("index", ["", "{", "\x00"])
def test_an_index_that_is_no_json_is_named(tmp_path: Path, index: str) -> None:
    with pytest.raises(UnknownCheckpoint, match=r"model_index\.json cannot be read"):
        detect(folder(tmp_path / "p", index))


def test_an_index_that_is_no_object_is_none(tmp_path: Path) -> None:
    with pytest.raises(UnknownCheckpoint, match=r"it has no model_index\.json"):
        detect(folder(tmp_path / "p", [1]))


@pytest.mark.parametrize(
    ("lora", "model", "reason"),
    [
        (768, 768, ""),
        (768, None, ""),
        (None, 768, ""),
        (768, 2048, "x.safetensors is for cross_attention_dim 768, the model has 2048"),
    ],
)
def test_a_lora_fits_where_the_widths_are_the_same_or_unknown(
    tmp_path: Path, lora: int | None, model: int | None, reason: str
) -> None:
    key = "unet.attn2.to_k.lora_A.weight" if lora else "unet.attn1.to_k.lora_A.weight"
    path = safetensors(tmp_path / "x.safetensors", {key: tensor(4, lora or 9)})
    assert why_unfit(path, model) == reason


def test_a_lora_that_is_not_there_does_not_fit(tmp_path: Path) -> None:
    assert "No such file" in why_unfit(tmp_path / "none.safetensors", 768)
    assert "Is a directory" in why_unfit(tmp_path, 768)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///a/b", Path("/a/b")),
        ("/a/b", Path("/a/b")),
        ("a/b", Path("a/b")),
        ("", None),
        ("hf://a/b", None),
        ("ollama://x", None),
    ],
)
def test_a_url_of_this_machine_is_a_path(url: str, path: Path | None) -> None:
    assert local_path(url) == path


def test_what_lies_here_is_found_without_a_download(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"123")
    heard: list[float] = []
    assert resolve(f"file://{tmp_path}/x", heard.append) == is_cached(f"{tmp_path}/x") == tmp_path / "x"
    assert heard == []
    assert (size_bytes(tmp_path / "x"), size_bytes(tmp_path)) == (3, 3)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("file:///nowhere/x", "/nowhere/x does not exist on this worker"),
        ("s3://bucket/x", "s3:// is not supported; use one of file, hf, ollama"),
        ("hf://name", "hf://name: write hf://owner/name or hf://owner/name/file"),
        ("hf://", "write hf://owner/name"),
        ("hf://owner/", "write hf://owner/name"),
        ("hf:///name", "write hf://owner/name"),
    ],
)
def test_weights_that_cannot_be_had_are_an_error_with_the_remedy(url: str, says: str) -> None:
    with pytest.raises(WeightsError) as refused:
        resolve(url, lambda _: None)
    assert says in str(refused.value)
    assert is_cached(url) is None


def test_the_name_of_an_ollama_model_is_ollamas_own_affair() -> None:
    assert resolve("ollama://a:b", lambda _: None) == Path("a:b")
    assert is_cached("ollama://a:b") is None
    assert is_cached("/" + "x" * 5000) is None, "no path at all"


def test_what_the_hub_has_left_in_its_cache_is_found_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert is_cached("hf://owner/name") is None
    revision = "a" * 40
    repository = tmp_path / "models--owner--name"
    (repository / "snapshots" / revision / "deep").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    (repository / "snapshots" / revision / "deep" / "x.gguf").write_bytes(b"x")
    assert is_cached("hf://owner/name") == repository / "snapshots" / revision
    assert is_cached("hf://owner/name/deep/x.gguf") == repository / "snapshots" / revision / "deep" / "x.gguf"
    assert is_cached("hf://owner/name/other.gguf") is None


@pytest.mark.parametrize(
    ("unit", "total", "steps", "heard"),
    [
        ("B", 200, (50, 50, 100), [25.0, 50.0, 100.0]),
        ("it", 4, (1, 1), []),
        ("B", None, (5,), []),
        ("B", 10, (15,), [100.0]),
    ],
)
def test_a_download_is_told_in_percent_of_bytes(
    unit: str, total: int | None, steps: tuple[int, ...], heard: list[float]
) -> None:
    reported: list[float] = []
    bar = resolving._progress_bar(reported.append)(total=total, unit=unit, name="hub")
    for step in steps:
        bar.update(step)
    bar.close()
    assert reported == heard
