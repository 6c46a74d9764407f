"""Configuration files: what they mean, and errors that say file, line and remedy."""

from pathlib import Path

import pytest

from stoker.services.catalog.documents import ConfigurationError
from stoker.services.catalog.load import load


def write(folder: Path, text: str, name: str = "stoker.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "chat.gguf").write_bytes(b"x" * 1000)
    path = write(tmp_path, "models:\n  m: {engine: LlamaCpp, url: file://./chat.gguf}\n")
    [model] = load([path]).models
    [spec] = model.specs
    assert (spec.engine, spec.size_bytes) == ("llamacpp", 1000)
    assert spec.url == f"file://{tmp_path}/chat.gguf"
    assert model.features == ("TextGeneration", "TextEmbedding")


def test_a_folder_and_several_files_are_one_configuration(tmp_path: Path) -> None:
    write(tmp_path, "models:\n  a: {engine: synthetic}\n", "a.yaml")
    write(tmp_path, "models:\n  b: {engine: synthetic}\n---\nworkers: [{count: 3}]\n", "b.yml")
    found = load([tmp_path])
    assert [model.name for model in found.models] == ["a", "b"]
    assert found.workers[0].count == 3


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("modles:\n  a: {}\n", 1, "did you mean 'models'?"),
        ("models:\n  a:\n    engin: llamacpp\n", 3, "did you mean 'engine'?"),
        ("models:\n  a:\n    engine: vlllm\n", 3, "unknown engine 'vlllm'; there are"),
        ("models:\n  a:\n    engine: llamacpp\n", 2, "missing required field: url"),
        ("models:\n  a:\n    engine: synthetic\n    slots: many\n", 4, "Expected `int`, got `str`"),
        ("models:\n  a:\n    engine: synthetic\n    memory: huge\n", 4, "'huge' is not a size"),
        ("models:\n  a:\n    engine: synthetic\n    defaults: {steps: 3}\n", 4, "unknown key"),
        ("models:\n  a: {engine: synthetic}\n  a: {engine: synthetic}\n", 3, "stands here twice"),
        ("models: [a]\n", 1, "must be a mapping"),
        ("workers:\n  - {count: 1000}\n", 2, "must be 0 to 64"),
        ("workers:\n  - {cuont: 1}\n", 2, "did you mean 'count'?"),
        ("models:\n  a: {engine: [}\n", 2, "not valid YAML"),
        ('models:\n  "a\\nb": {engine: synthetic}\n', 2, "control characters"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigurationError) as found:
        load([path])
    assert str(found.value).startswith(f"{path}:{line}: ")
    assert says in str(found.value)


def test_unreadable_and_binary_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load([tmp_path / "missing.yaml"])
    binary = tmp_path / "x.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="not a text file"):
        load([binary])
    with pytest.raises(ConfigurationError, match=r"no \.yaml file"):
        (tmp_path / "empty").mkdir()
        load([tmp_path / "empty"])


def test_blanks_around_values_of_the_environment_mean_nothing(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").touch()
    environment = {"MODEL_ROOT": f" {tmp_path}\n", "MODEL": "m.safetensors ", "USE_SDXL": " 0\n"}
    more = {"DEFAULT_STEPS": "7\n", "DEFAULT_SIZE": " ", "DEFAULT_GUIDANCE": "", "SDXL_MODEL": " "}
    [model] = load([], environment | more).models
    assert model.mode is not None
    assert (model.mode.default_steps, model.mode.default_guidance, model.mode.default_size) == (
        7,
        1.0,
        "512x512",
    )


@pytest.mark.parametrize(
    "text",
    [
        'models:\n  a: {engine: synthetic, options: {b: "\\uD800"}}\n',
        'models:\n  "\\uDC00": {engine: synthetic}\n',
    ],
)
def test_what_cannot_be_sent_is_an_error_of_the_configuration(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError):
        load([write(tmp_path, text)])


def test_a_large_file_is_refused_without_being_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "stoker.yaml"
    with path.open("wb") as opened:
        opened.truncate(10**12)
    with pytest.raises(ConfigurationError, match="larger than"):
        load([path])


def test_hidden_files_of_a_folder_mean_nothing(tmp_path: Path) -> None:
    write(tmp_path, "models:\n  a: {engine: synthetic}\n", "a.yaml")
    write(tmp_path, "models: [", ".b.yaml")
    (tmp_path / ".#a.yaml").symlink_to("somebody@somewhere")
    assert [model.name for model in load([tmp_path]).models] == ["a"]
