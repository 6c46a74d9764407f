"""What a spec says to its engine: options and URLs, checked where they are written."""

from pathlib import Path
from typing import Any

import msgspec

from stoker.schemas.catalog import Model, Spec
from stoker.schemas.engine_options import checked, names_of
from stoker.services.catalog.documents import Document, check_keys

READ = {"ollama": ("ollama",), "openai": ("https", "http")}
READ_BY_ALL = ("file", "hf")
"""Schemes of URLs that an engine's weights are fetched from."""
RESOLVED_ELSEWHERE = ("s3", "gs", "oss", "pvc")
"""Schemes that KubeAI knows, and that nothing here fetches from."""


def check_options(
    document: Document, path: tuple[str | int, ...], engine: str, options: dict[str, Any]
) -> None:
    """Raises ConfigurationError for an option that the engine has not, or a value that it may not have."""
    names = names_of(engine)
    if not options:
        return
    if not names:
        raise document.place(*path).error(f"the engine {engine} has no options")
    check_keys(document, path, options, names)
    for name, value in options.items():
        try:
            checked(engine, {name: value})
        except msgspec.ValidationError as error:
            message = str(error).partition(" - at `$")[0]
            raise document.place(*path, name).error(f"{message}, not {value!r}") from error


def check_url(document: Document, path: tuple[str | int, ...], engine: str, url: str) -> None:
    """Raises ConfigurationError for a URL that the engine's weights never come from."""
    if engine == "openai" and not url:
        raise document.place(*path).error("missing: the base URL of the server, as https://…/v1")
    if not url or engine in ("custom", "synthetic"):
        return
    schemes = READ.get(engine, READ_BY_ALL)
    scheme, separator, rest = url.partition("://")
    readable = " or ".join(f"{one}://" for one in schemes)
    if not separator:
        if engine in READ:
            raise document.place(*path).error(f"{url!r}: the engine {engine} reads {readable}")
        return
    if scheme not in schemes and scheme not in RESOLVED_ELSEWHERE:
        raise document.place(*path).error(
            f"{scheme}:// is nothing that the engine {engine} reads: use {readable}"
        )
    if not rest:
        raise document.place(*path).error(f"nothing behind {scheme}://")
    if scheme == "hf" and (len(parts := rest.split("/")) < 2 or not all(parts[:2])):
        raise document.place(*path).error(f"{url}: write hf://owner/name, or hf://owner/name/file")


def odd(model: Model) -> list[str]:
    """What is no mistake by itself, and keeps a model from being loaded as it is: warnings."""
    if model.mode is not None:
        return []  # its files are looked for where the mode is read
    found: list[str] = []
    for spec in model.specs:
        where = f"model {model.name}, spec {spec.name}"
        for url in (spec.url, *(adapter.url for adapter in spec.adapters), *_files(spec)):
            scheme, separator, rest = url.partition("://")
            if scheme in RESOLVED_ELSEWHERE and separator:
                found.append(
                    f"{where}: {url}: nothing here fetches {scheme}://; a worker must have it as a file"
                )
            elif scheme == "file" and separator and not Path(rest).expanduser().exists():
                found.append(f"{where}: {rest} does not exist (yet)")
    return found


def _files(spec: Spec) -> list[str]:
    """Paths in options, as URLs, where they are whole."""
    named = [spec.options.get(name) for name in ("vae", "config", "prior", "embedding_dir")]
    named += [*(spec.options.get("controlnets") or {}).values()]
    return [f"file://{one}" for one in named if isinstance(one, str) and one.startswith("/")]


def colliding(models: dict[str, Model]) -> str:
    """Why `model_adapter` would mean two things; "" where it does not."""
    for model in models.values():
        for spec in model.specs:
            for adapter in spec.adapters:
                name = f"{model.name}_{adapter.name}"
                if name in models:
                    return (
                        f"model {model.name!r} with its adapter {adapter.name!r} is asked for as {name!r}, and "
                        "so is a model of that name: rename one"
                    )
    return ""
