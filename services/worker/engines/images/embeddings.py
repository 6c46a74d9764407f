"""Textual inversions: words of a prompt that stand for vectors which somebody has trained.

Options of the model: `embeddings`, a list of files, or of `{path, token}`; `embedding_dir`, a folder of files
whose names without suffix are the words. What is named must fit: else the model is not loaded. What lies in a
folder and does not fit is left out, and told, as such folders hold files for several models.

Files are those of A1111 (`string_to_param`), of diffusers (one tensor, named like the word), and of SDXL
(`clip_l` and `clip_g`). All are examined before the first one changes anything. Nothing in them is executed.

Traps: a word that is added to a tokenizer is found within other words unless told otherwise; and encoders of an
old form take the largest token for the end of a text, which an added one would be.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from stoker.services.worker.engines.base import EngineError
from stoker.services.worker.engines.images.prompts import encoders_of, takes_pieces
from stoker.services.worker.models.weights.detect import UnknownCheckpoint, read_safely

SUFFIXES = (".safetensors", ".pt", ".bin")
MAX_FILES, MAX_TOLD = 200, 50
"""Of a folder, read; and of those that do not fit, told. They are told with every heartbeat."""
MAX_VECTORS = 75
"""Of one word: what a piece of a prompt has room for."""
OLD_END_TOKEN = 2
"""What old configurations of CLIP call the end of a text, whatever it is."""


class Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of the option `embeddings`. token: the word; "" = the file's name."""

    path: str
    token: str = ""


class Unfit(ValueError):
    """Not an embedding of this model; says why."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """What was loaded: number and width of the vectors by word; and what was left out, with the reason."""

    loaded: dict[str, tuple[int, int]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def load_embeddings(pipeline: Any, options: dict[str, Any], beside: Path) -> Embeddings:
    """Teach a pipeline the words of its options. beside: the folder that paths are relative to.

    Raises EngineError, and nothing has changed then.
    """
    found: dict[str, list[Tensor]] = {}
    skipped: dict[str, str] = {}
    for path, token in _named(options, beside):
        try:
            found[token] = _examined(pipeline, path, token, found)
        except (Unfit, UnknownCheckpoint, OSError) as error:
            raise EngineError(f"embedding {token}: {error}", "load_failed") from error
    for path in _in_folder(options, beside):
        try:
            found[path.stem] = _examined(pipeline, path, path.stem, found)
        except (Unfit, UnknownCheckpoint, OSError) as error:
            skipped.setdefault(path.stem, str(error))
    if found:
        for index, (tokenizer, encoder) in enumerate(encoders_of(pipeline)):
            _teach(tokenizer, encoder, {token: vectors[index] for token, vectors in found.items()})
    shapes = {
        token: (len(vectors[0]), sum(one.shape[1] for one in vectors)) for token, vectors in found.items()
    }
    return Embeddings(shapes, dict(list(skipped.items())[:MAX_TOLD]))


def _named(options: dict[str, Any], beside: Path) -> Iterator[tuple[Path, str]]:
    """Raises EngineError."""
    try:
        entries = msgspec.convert(options.get("embeddings", ()), tuple[str | Named, ...])
    except msgspec.ValidationError as error:
        raise EngineError(f"option embeddings: {error}", "load_failed") from error
    for entry in entries:
        one = Named(entry) if isinstance(entry, str) else entry
        path = _absolute(one.path, beside)
        yield path, one.token or path.stem


def _in_folder(options: dict[str, Any], beside: Path) -> list[Path]:
    """Raises EngineError."""
    folder = options.get("embedding_dir")
    if not folder:
        return []
    path = _absolute(str(folder), beside)
    if not path.is_dir():
        raise EngineError(f"option embedding_dir: {path} is no folder", "load_failed")
    files = sorted(one for one in path.iterdir() if one.suffix.lower() in SUFFIXES and one.is_file())
    if len(files) > MAX_FILES:
        message = f"option embedding_dir: {path} has {len(files)} files, and {MAX_FILES} at most are read"
        raise EngineError(message, "load_failed")
    return files


def _absolute(named: str, beside: Path) -> Path:
    path = Path(named.removeprefix("file://")).expanduser()
    return path if path.is_absolute() else beside / path


def _examined(pipeline: Any, path: Path, token: str, taken: dict[str, list[Tensor]]) -> list[Tensor]:
    """The vectors [n, width] of a file for each encoder. Raises Unfit, UnknownCheckpoint, OSError."""
    if not takes_pieces(pipeline):
        raise Unfit(f"{type(pipeline).__name__} takes no textual inversions")
    tensors = _tensors(read_safely(path), path)
    encoders = encoders_of(pipeline)
    wanted = [encoder.get_input_embeddings().weight.shape[-1] for _, encoder in encoders]
    found = sorted(tensors, key=lambda one: one.shape[-1])
    widths = [one.shape[-1] for one in found]
    if widths != sorted(wanted):
        have, need = (" and ".join(map(str, sizes)) for sizes in (widths, wanted))
        raise Unfit(f"{path.name} has vectors of width {have}, and the model's encoders read {need}")
    vectors = [found[widths.index(width)] for width in wanted]
    if len({len(one) for one in vectors}) > 1 or not 1 <= len(vectors[0]) <= MAX_VECTORS:
        raise Unfit(
            f"{path.name} has {len(vectors[0])} vectors: 1 to {MAX_VECTORS} are taken, of each encoder as many"
        )
    if not all(torch.isfinite(one).all() for one in vectors):
        raise Unfit(f"{path.name} has numbers that are none (NaN)")
    words = {word.lower() for known in taken for word in _words(known, len(taken[known][0]))}
    for word in _words(token, len(vectors[0])):
        if not word.strip() or word.lower() in words or any(_knows(one, word) for one, _ in encoders):
            raise Unfit(f"{word!r} is a word of the model already: give the file another token")
    return vectors


def _knows(tokenizer: Any, word: str) -> bool:
    vocabulary = tokenizer.get_vocab()
    return word in vocabulary or word.lower() in vocabulary


def _tensors(content: Any, path: Path) -> list[Tensor]:
    """The vectors of a file, [n, width] each. Raises Unfit for what is no embedding."""
    if isinstance(content, dict) and "string_to_param" in content:
        content = dict(content["string_to_param"])
    if isinstance(content, Tensor):
        content = {"": content}
    found = (
        [one.detach() for one in content.values() if isinstance(one, Tensor)]
        if isinstance(content, dict)
        else []
    )
    tensors = [one.reshape(1, -1) if one.ndim == 1 else one for one in found]
    is_one = len(tensors) == 1 or (isinstance(content, dict) and content.keys() == {"clip_l", "clip_g"})
    if not is_one or any(one.ndim != 2 or not one.is_floating_point() for one in tensors):
        raise Unfit(f"{path.name} is no textual inversion: it has {len(tensors)} tensors")
    return tensors


def _words(token: str, vectors: int) -> list[str]:
    """The words of an embedding: its own, and those of its further vectors."""
    return [token, *(f"{token}_{index}" for index in range(1, vectors))]


def _teach(tokenizer: Any, encoder: Any, embeddings: dict[str, Tensor]) -> None:
    """Add words to a tokenizer, and their vectors to its encoder."""
    from transformers import AddedToken

    rows = [row for vectors in embeddings.values() for row in vectors]
    words = [word for token, vectors in embeddings.items() for word in _words(token, len(vectors))]
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=True) for word in words])
    if len(tokenizer) > encoder.get_input_embeddings().weight.shape[0]:
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    weight = encoder.get_input_embeddings().weight
    with torch.no_grad():
        for word, row in zip(words, rows, strict=True):
            weight[tokenizer.convert_tokens_to_ids(word)] = row.to(weight)
    for module in encoder.modules():
        if getattr(module, "eos_token_id", None) == OLD_END_TOKEN:
            module.eos_token_id = tokenizer.eos_token_id
