"""`modes.yaml`: named ways of drawing, each a model of its own; those of one checkpoint share its weights.

Also the older way without such a file: MODEL_ROOT and MODEL (SDXL_MODEL_ROOT and SDXL_MODEL, USE_SDXL) make one
mode. Settings that a mode leaves open come from DEFAULT_SIZE, DEFAULT_STEPS and DEFAULT_GUIDANCE, else 512x512
(SDXL: 1024x1024), 4 steps and guidance 1.0.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from stoker.schemas.catalog import DEFAULT_SPEC, Adapter, Mode, Model, Spec, Style
from stoker.schemas.drawing import MAX_CLIP_SKIP
from stoker.schemas.subjects import BadName, check_name
from stoker.services.catalog.documents import ConfigurationError, Document, check_keys, convert, shown
from stoker.services.catalog.files import size_bytes, stamp

FILE_NAME = "modes.yaml"
LEGACY_MODE = "default"
MIN_EDGE_PX, MAX_EDGE_PX, EDGE_MULTIPLE_PX = 8, 2048, 8
"""Of a mode's own size: small models draw less than the 64 pixels that a request may ask for."""
MAX_STEPS = 150
MAX_GUIDANCE = 20.0
GENERATION_TIMEOUT_S = 600.0
SCHEDULER, CONFIG = "scheduler", "config"
"""Keys of a mode's metadata that say how its checkpoint is loaded."""


class LoraEntry(msgspec.Struct, frozen=True):
    """One of a mode's LoRAs, written in full.

    path: below lora_root. strength: 1 is full. adapter_name: what it is called; else lora_ and the file's stem.
    """

    path: str
    strength: float = 1.0
    adapter_name: str = ""


class EmbeddingEntry(msgspec.Struct, frozen=True):
    """One of a mode's textual inversions, written in full.

    path: below embedding_dir, else model_root. token: the word; else the file's name.
    """

    path: str
    token: str = ""


class ModeEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `modes:`.

    model: its checkpoint, below model_root. loras: paths below lora_root, or with a strength each. embeddings:
    textual inversions. controlnets: folders below model_root by name. default_size: as 512x512. default_steps,
    default_guidance, default_prompt_weights, default_clip_skip: of requests that leave them unset. metadata:
    shown with the mode.
    """

    model: str
    loras: tuple[str | LoraEntry, ...] = ()
    embeddings: tuple[str | EmbeddingEntry, ...] = ()
    controlnets: dict[str, str] = {}
    default_size: str = ""
    default_steps: int | None = None
    default_guidance: float | None = None
    default_prompt_weights: bool | None = None
    default_clip_skip: int | None = None
    metadata: dict[str, Any] = {}


class StyleEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `styles:`.

    id: what requests ask for. title: as it is shown. lora_path: below lora_root. levels: strengths of level 1
    and above. required_cross_attention_dim: of models that it fits; 0 is any.
    """

    id: str
    lora_path: str
    levels: tuple[float, ...]
    title: str = ""
    required_cross_attention_dim: int = 0


@dataclass(frozen=True, slots=True)
class ModesFile:
    """What a modes file says. warnings: files that are not there (yet)."""

    default_mode: str
    models: tuple[Model, ...]
    styles: tuple[Style, ...] = ()
    warnings: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class _Folders:
    """Where the files of modes lie. embeddings: None where no folder of textual inversions is named."""

    models: Path
    loras: Path
    embeddings: Path | None


TOP_KEYS = ("model_root", "lora_root", "embedding_dir", "default_mode", "modes", "styles")


def is_modes_file(document: Document) -> bool:
    content = document.content
    return isinstance(content, dict) and ("modes" in content or "model_root" in content)


def read_modes(document: Document, environment: Mapping[str, str]) -> ModesFile:
    """A modes file as models. Raises ConfigurationError with file, line and field."""
    check_keys(document, (), document.content, TOP_KEYS)
    content = document.content
    for field_name in ("model_root", "default_mode", "modes"):
        if field_name not in content:
            raise document.place().error(f"missing required field: {field_name}")
    root = _folder(document, "model_root")
    lora_root = _folder(document, "lora_root") if content.get("lora_root") else root
    embedding_dir = _folder(document, "embedding_dir") if content.get("embedding_dir") else None
    folders = _Folders(root, lora_root, embedding_dir)
    entries = content["modes"]
    if not isinstance(entries, dict) or not entries:
        raise document.place("modes").error("must name at least one mode")
    styles = read_styles(document, lora_root)
    warnings: list[str] = []
    models = [_model(document, name, entry, folders, environment, warnings) for name, entry in entries.items()]
    default = content["default_mode"]
    if not isinstance(default, str) or default not in entries:
        raise document.place("default_mode").error(
            f"default_mode {default!r} not found in modes. Available modes: {sorted(entries)}"
        )
    return ModesFile(default, tuple(models), styles, tuple(warnings))


def _folder(document: Document, key: str) -> Path:
    value = document.content[key]
    if not isinstance(value, str) or not value:
        raise document.place(key).error(f"must be a folder, not {shown(value)}")
    folder = Path(value).expanduser()
    return folder if folder.is_absolute() else (document.file.parent / folder).resolve()


def _below(document: Document, path: tuple[str | int, ...], root: Path, relative: str, root_name: str) -> Path:
    """A path below a root. Raises ConfigurationError when it leaves it."""
    if not relative:
        raise document.place(*path).error("must not be empty")
    named = Path(relative).expanduser()
    found = Path(root, named)
    inside = Path(*_without_dots(found))
    if named.is_absolute() or not inside.is_relative_to(root):
        raise document.place(*path).error(f"{relative!r} leaves {root_name} ({root})")
    return inside


def _without_dots(path: Path) -> list[str]:
    """The parts of a path after its `..`: links are followed as the operator made them."""
    parts: list[str] = []
    for part in path.parts:
        if part != "..":
            parts.append(part)
        elif len(parts) > 1:
            parts.pop()
    return parts


def _model(
    document: Document,
    name: str,
    raw: Any,
    folders: _Folders,
    environment: Mapping[str, str],
    warnings: list[str],
) -> Model:
    path = ("modes", name)
    try:
        check_name(name)
    except BadName as error:
        raise document.place(*path).error(str(error)) from error
    if isinstance(raw, dict) and "model" not in raw:
        raise document.place(*path).error("missing required field: model")
    entry: ModeEntry = convert(document, path, raw, ModeEntry)
    checkpoint = _below(document, (*path, "model"), folders.models, entry.model, "model_root")
    loras = tuple(
        _lora(document, (*path, "loras", index), lora, folders.loras) for index, lora in enumerate(entry.loras)
    )
    embeddings = [
        _embedding(document, (*path, "embeddings", index), one, folders)
        for index, one in enumerate(entry.embeddings)
    ]
    controlnets = {
        key: str(_below(document, (*path, "controlnets", key), folders.models, folder, "model_root"))
        for key, folder in entry.controlnets.items()
    }
    named = [lora.url.removeprefix("file://") for lora in loras] + [one["path"] for one in embeddings]
    named += controlnets.values()
    for file in (checkpoint, *map(Path, named)):
        if not file.exists():
            warnings.append(f"mode {name}: {file} does not exist (yet)")
    if entry.default_size:
        check_size(document, (*path, "default_size"), entry.default_size)
    for key, value, low, high in (
        ("default_steps", entry.default_steps, 1, MAX_STEPS),
        ("default_guidance", entry.default_guidance, 0, MAX_GUIDANCE),
        ("default_clip_skip", entry.default_clip_skip, 1, MAX_CLIP_SKIP),
    ):
        if value is not None and not low <= value <= high:
            raise document.place(*path, key).error(f"must be {low} to {high:g}, not {value:g}")
    extras: dict[str, Any] = {"embeddings": embeddings} if embeddings else {}
    extras |= {"controlnets": controlnets} if controlnets else {}
    extras |= {"embedding_dir": str(folders.embeddings)} if folders.embeddings is not None else {}
    return make_mode(name, entry, checkpoint, loras, environment, extras)


def _embedding(
    document: Document, path: tuple[str | int, ...], entry: str | EmbeddingEntry, folders: _Folders
) -> dict[str, str]:
    """An entry of the engine's option `embeddings`. Raises ConfigurationError."""
    given = EmbeddingEntry(entry) if isinstance(entry, str) else entry
    root, name = (folders.embeddings, "embedding_dir") if folders.embeddings else (folders.models, "model_root")
    file = _below(document, path, root, given.path, name)
    return {"path": str(file), "token": given.token or file.stem}


def _lora(document: Document, path: tuple[str | int, ...], entry: str | LoraEntry, root: Path) -> Adapter:
    given = LoraEntry(entry) if isinstance(entry, str) else entry
    file = _below(document, path, root, given.path, "lora_root")
    return Adapter(given.adapter_name or f"lora_{file.stem}", f"file://{file}", given.strength)


def check_size(document: Document, path: tuple[str | int, ...], size: str) -> None:
    if wrong := _wrong_size(size):
        raise document.place(*path).error(wrong)


def _wrong_size(size: str) -> str:
    """Why this is no size, and what to write; "" when it is one."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size)
    edges = [int(match[1]), int(match[2])] if match is not None else []
    if edges and all(MIN_EDGE_PX <= edge <= MAX_EDGE_PX and not edge % EDGE_MULTIPLE_PX for edge in edges):
        return ""
    bounds = f"a multiple of {EDGE_MULTIPLE_PX} from {MIN_EDGE_PX} to {MAX_EDGE_PX}"
    return f"{size!r} is no size: write WxH, each {bounds}"


def make_mode(
    name: str,
    entry: ModeEntry,
    checkpoint: Path,
    loras: tuple[Adapter, ...],
    environment: Mapping[str, str],
    extras: Mapping[str, Any] | None = None,
) -> Model:
    """The model of a mode. What it leaves open is filled from the environment, then from the defaults.

    extras: more options of the engine.
    """
    fallback_size = environment.get("DEFAULT_SIZE", "512x512")
    if wrong := _wrong_size(fallback_size):
        raise ConfigurationError(f"DEFAULT_SIZE: {wrong}")
    steps, guidance = entry.default_steps, entry.default_guidance
    if steps is None:
        steps = int(_number(environment, "DEFAULT_STEPS", 4))
    if guidance is None:
        guidance = _number(environment, "DEFAULT_GUIDANCE", 1.0)
    defaults: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance}
    own = {"prompt_weights": entry.default_prompt_weights, "clip_skip": entry.default_clip_skip}
    defaults |= {key: value for key, value in own.items() if value is not None}
    options: dict[str, Any] = {"default_size": fallback_size}
    if entry.default_size:
        width, height = entry.default_size.split("x")
        defaults |= {"width": int(width), "height": int(height)}
    options |= {key: entry.metadata[key] for key in (SCHEDULER, CONFIG) if key in entry.metadata}
    options |= extras or {}
    spec = Spec(
        name=DEFAULT_SPEC,
        engine="diffusers",
        url=f"file://{checkpoint}",
        options=options,
        loras=loras,
        size_bytes=size_bytes(f"file://{checkpoint}"),
        stamp=stamp(f"file://{checkpoint}"),
    )
    return Model(
        name=name,
        features=("ImageGeneration",),
        specs=(spec,),
        defaults=defaults,
        run_timeout_s=GENERATION_TIMEOUT_S,
        mode=Mode(
            model=entry.model,
            path=str(checkpoint),
            default_size=entry.default_size or fallback_size,
            default_steps=steps,
            default_guidance=guidance,
            metadata=entry.metadata,
        ),
    )


def _number(environment: Mapping[str, str], variable: str, default: float) -> float:
    try:
        number = float(environment.get(variable, default))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigurationError(f"{variable} must be a number, not {environment[variable]!r}")
    return number


def read_styles(document: Document, lora_root: Path) -> tuple[Style, ...]:
    """The styles of a document. Raises ConfigurationError."""
    entries = document.content.get("styles", [])
    if not isinstance(entries, list):
        raise document.place("styles").error(f"must be a list, not {shown(entries)}")
    found: dict[str, Style] = {}
    for index, raw in enumerate(entries):
        entry: StyleEntry = convert(document, ("styles", index), raw, StyleEntry)
        if not entry.levels:
            raise document.place("styles", index, "levels").error("must name at least one strength")
        if entry.id in found:
            raise document.place("styles", index, "id").error(f"the style {entry.id!r} is there already")
        file = Path(entry.lora_path).expanduser()
        file = file if file.is_absolute() else lora_root / file
        found[entry.id] = Style(
            id=entry.id,
            lora=f"file://{file}",
            levels=entry.levels,
            title=entry.title,
            required_cross_attention_dim=entry.required_cross_attention_dim,
        )
    return tuple(found.values())


def legacy_mode(environment: Mapping[str, str]) -> Model | None:
    """The one mode of MODEL_ROOT and MODEL, or None where they are not set. Raises ConfigurationError."""
    is_sdxl = environment.get("USE_SDXL", "0").lower() in ("1", "true", "yes") or "MODEL" not in environment
    model = (environment.get("SDXL_MODEL") if is_sdxl else None) or environment.get("MODEL")
    root = (environment.get("SDXL_MODEL_ROOT") if is_sdxl else None) or environment.get("MODEL_ROOT")
    if not model or not root:
        return None
    size = environment.get("DEFAULT_SIZE") or ("1024x1024" if is_sdxl else "512x512")
    entry = ModeEntry(model=model, default_size=size)
    checkpoint = Path(root).expanduser().absolute() / model
    if not checkpoint.exists():
        raise ConfigurationError(f"MODEL_ROOT and MODEL name {checkpoint}, which does not exist")
    return make_mode(LEGACY_MODE, entry, checkpoint, (), environment)
