"""What people call a model: a name that a server knows, a file or folder, or a name of the hub."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

HUB = "hf://"
FILES = (".gguf", ".safetensors", ".ckpt")
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(/[\w./-]+)?")


class NoModel(ValueError):
    """A file or folder that is no model; says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Reference:
    """kind: of what `text` is. url: of the weights, "" of a name."""

    kind: Literal["name", "file", "hub"]
    text: str
    url: str = ""


def read(text: str) -> Reference:
    """What a MODEL on the command line is. Raises NoModel for a file that is not there."""
    if text.startswith(HUB):
        return Reference("hub", text, text)
    path = Path(text.removeprefix("file://")).expanduser()
    is_written_as_path = text.startswith(("/", "./", "../", "~", "file://")) or path.suffix.lower() in FILES
    if path.exists() and (is_written_as_path or (path.is_dir() and engine_of_folder(path))):
        return Reference("file", text, f"file://{path.resolve()}")
    if is_written_as_path and not _HUB_NAME.fullmatch(text):
        raise NoModel(f"there is no file {path}")
    return Reference("name", text)


def may_be_of_hub(text: str) -> bool:
    """Whether a name that no server knows can be one of the hub: owner/name, or owner/name/file."""
    return _HUB_NAME.fullmatch(text) is not None


def engine_of_folder(path: Path) -> str:
    """The engine that runs what is in a folder; "" where nothing says."""
    if (path / "model_index.json").exists():
        return "diffusers"
    if (path / "model.bin").exists() and (path / "config.json").exists():
        return "whisper"
    if (path / "config.json").exists() and any(path.glob("*.safetensors")):
        return "vllm"
    return "llamacpp" if len(list(path.glob("*.gguf"))) == 1 else ""


def engine_of(reference: Reference) -> str:
    """The engine for weights. Raises NoModel where it has to be told."""
    path = Path(reference.url.removeprefix("file://"))
    if path.suffix.lower() == ".gguf" or (reference.kind == "hub" and "gguf" in reference.url.lower()):
        return "llamacpp"
    if reference.kind == "hub":
        return _engine_of_hub(reference.url.removeprefix(HUB))
    if path.suffix.lower() in FILES:
        return "diffusers"
    if path.is_dir() and (engine := engine_of_folder(path)):
        return engine
    raise NoModel(f"{reference.text} does not say what runs it: give --engine, as --engine llamacpp")


def _engine_of_hub(name: str) -> str:
    """What the hub says of a repository: of its library and its task. Raises NoModel."""
    repository = "/".join(name.split("/")[:2])
    try:
        from huggingface_hub import model_info
    except ImportError:
        raise NoModel(f"{HUB}{name} needs huggingface_hub: pip install 'stoker[hub]'") from None
    try:
        told: Any = model_info(repository)
    except Exception as error:  # of whatever library it asks with
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NoModel(f"the hub says nothing of {repository} ({reason}); give --engine") from error
    if told.library_name == "diffusers":
        return "diffusers"
    if told.library_name == "ctranslate2":
        return "whisper"
    if told.pipeline_tag == "text-generation" or told.library_name == "transformers":
        return "vllm"
    raise NoModel(f"the hub does not say what runs {repository}: give --engine")


def entry_of(reference: Reference, engine: str = "") -> dict[str, Any]:
    """The configuration of a model with these weights. Raises NoModel."""
    engine = engine or engine_of(reference)
    url = reference.url
    path = Path(url.removeprefix("file://"))
    if engine == "llamacpp" and reference.kind == "file" and path.is_dir():
        [weights] = path.glob("*.gguf")
        url = f"file://{weights}"
    return {"engine": engine, "url": url}


def stem_of(reference: Reference) -> str:
    """A name for a model with these weights."""
    last = reference.url.rstrip("/").rpartition("/")[2]
    for suffix in FILES:
        last = last.removesuffix(suffix)
    return re.sub(r"[^a-z0-9.-]+", "-", last.lower()).strip("-.") or "model"
