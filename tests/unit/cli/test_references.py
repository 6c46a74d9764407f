"""What people call a model: a name, a file or folder, a name of the hub; and the engine that runs it."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from stoker.cli import references
from stoker.cli.references import NoModel, Reference, engine_of, entry_of, may_be_of_hub, read, stem_of


def made(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


def test_a_file_is_one_by_its_path_or_its_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, "a.gguf", "plain")
    monkeypatch.chdir(tmp_path)
    for written in ("a.gguf", "./a.gguf", str(tmp_path / "a.gguf"), f"file://{tmp_path}/a.gguf"):
        assert read(written) == Reference("file", written, f"file://{tmp_path}/a.gguf")
    assert read("./plain").kind == "file"
    assert read("plain") == Reference("name", "plain")
    assert read("chat") == Reference("name", "chat")


def test_a_folder_is_one_where_a_model_lies_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made(tmp_path / "picture", "model_index.json")
    made(tmp_path / "empty")
    assert read("picture").kind == "file"
    assert read("empty") == Reference("name", "empty")


@pytest.mark.parametrize("written", ["./none.gguf", "/nowhere/none.gguf", "none.gguf", "~/none.safetensors"])
def test_a_file_that_is_not_there_is_said(written: str) -> None:
    with pytest.raises(NoModel, match="there is no file"):
        read(written)


def test_names_of_the_hub() -> None:
    assert read("hf://o/n").kind == "hub"
    assert read("o/n/file.gguf") == Reference("name", "o/n/file.gguf")
    assert [may_be_of_hub(one) for one in ("o/n", "o/n/f/g.gguf", "chat", "a b/c", "/o/n")] == [
        True, True, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "engine"),
    [
        (["model_index.json"], "diffusers"),
        (["model.bin", "config.json"], "whisper"),
        (["config.json", "model.safetensors"], "vllm"),
        (["a.gguf"], "llamacpp"),
    ],
)
def test_a_folder_says_its_engine(tmp_path: Path, names: list[str], engine: str) -> None:
    folder = made(tmp_path / "m", *names)
    entry = entry_of(read(str(folder)))
    assert entry["engine"] == engine
    assert entry["url"] == f"file://{folder / 'a.gguf' if engine == 'llamacpp' else folder}"


def test_files_say_their_engine_and_others_have_to_be_told(tmp_path: Path) -> None:
    made(tmp_path, "a.gguf", "b.safetensors", "c.bin")
    assert entry_of(read(str(tmp_path / "a.gguf"))) == {
        "engine": "llamacpp",
        "url": f"file://{tmp_path}/a.gguf",
    }
    assert engine_of(read(str(tmp_path / "b.safetensors"))) == "diffusers"
    with pytest.raises(NoModel, match="give --engine"):
        engine_of(read(str(tmp_path / "c.bin")))
    assert entry_of(read(str(tmp_path / "c.bin")), "whisper")["engine"] == "whisper"
    assert engine_of(read("hf://o/n-GGUF/q4.gguf")) == "llamacpp"


class Hub(ModuleType):
    """What huggingface_hub says of a repository."""

    def __init__(self, told: Any) -> None:
        super().__init__("huggingface_hub")
        self.told = told

    def model_info(self, repository: str) -> Any:
        if isinstance(self.told, Exception):
            raise self.told
        return SimpleNamespace(**self.told) if repository == "o/n" else None


@pytest.mark.parametrize(
    ("told", "engine"),
    [
        ({"library_name": "diffusers", "pipeline_tag": "text-to-image"}, "diffusers"),
        ({"library_name": "ctranslate2", "pipeline_tag": None}, "whisper"),
        ({"library_name": "transformers", "pipeline_tag": "text-generation"}, "vllm"),
        ({"library_name": "timm", "pipeline_tag": None}, "say what runs o/n: give --engine"),
        (OSError("offline\nmore"), r"says nothing of o/n \(offline\); give --engine"),
    ],
)
def test_the_hub_says_an_engine(monkeypatch: pytest.MonkeyPatch, told: Any, engine: str) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub(told))
    reference = read("hf://o/n/part")
    if " " not in engine:
        assert engine_of(reference) == engine
        return
    with pytest.raises(NoModel, match=engine):
        engine_of(reference)


def test_without_its_library_the_hub_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(NoModel, match=r"pip install 'stoker\[hub\]'"):
        engine_of(read("hf://o/n"))


@pytest.mark.parametrize(
    ("url", "stem"),
    [
        ("file:///m/Smol LM2.Q4.gguf", "smol-lm2.q4"),
        ("file:///m/sd.safetensors", "sd"),
        ("hf://o/Name-1", "name-1"),
        ("hf://o/n/file.gguf", "file"),
        ("file:///m/???", "model"),
    ],
)
def test_a_model_is_named_after_its_weights(url: str, stem: str) -> None:
    assert stem_of(Reference("file", "", url)) == stem
    assert references.HUB == "hf://"
