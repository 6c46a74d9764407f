"""`stoker init`: a folder to begin with, out of stoker/templates and the deploy files that the package has.

It meant "make the streams" once. That is `stoker install-streams` now; `stoker init` with an address of NATS,
as an option or in the environment, still does it and says so.
"""

import os
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from stoker.cli.app import app, fail

STREAMS = "streams"
SCHEMA = "stoker.schema.json"
"""Beside a configuration, whose first line names it to editors."""
PACKAGE = Path(__file__).parent.parent
TEMPLATES, DEPLOY = PACKAGE / "templates", PACKAGE / "deploy"
TEXT = ".txt"
"""At the end of a template's name where its own ending would make it a part of this package."""
KINDS = {
    "chat": "a chat model: OpenAI's, Anthropic's and Ollama's APIs in front of a GGUF file",
    "images": "a model that draws",
    "functions": "your own Python as a model",
    "cluster": "for several machines: Docker Compose, Kubernetes, Nomad, systemd, NATS, Prometheus, Grafana",
}
MODELS = {
    "chat": "hf://bartowski/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct-Q4_K_M.gguf",
    "images": "hf://stabilityai/sd-turbo",
}
"""Small models of the hub, for who gives none."""
NEXT = {
    "chat": 'stoker up\nstoker run chat "What is the sea?"    # in another terminal, in the same folder',
    "images": 'stoker up\nstoker run draw "a lake at dawn" --out lake.png    # in another terminal',
    "functions": (
        "stoker call --local . greet name=Ada    # here, without a server\n"
        "stoker up --functions . --reload\n"
        "stoker call greet name=Ada times=2      # in another terminal, in the same folder"
    ),
    "cluster": (
        "cp deploy/env.example deploy/.env    # and choose the passwords\n"
        "docker compose -f deploy/compose.yaml up\n"
        "see docs/deploy.md for Kubernetes, Nomad, systemd, TLS and three NATS servers"
    ),
}


GIVEN = "stoker.cli.init.given"


class _Init(TyperCommand):
    """Keeps the arguments of a call that means the streams as they are: they are options of services."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        is_old = _is_old_call(args)
        ctx.meta[GIVEN] = [one for one in args if one != STREAMS] if is_old else None
        return super().parse_args(ctx, [] if is_old else args)


@app.command(cls=_Init)
def init(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help=f"{', '.join(KINDS)}.")] = "",
    folder: Annotated[Path | None, typer.Argument(help="Default: stoker-KIND, here.")] = None,
    model: Annotated[str, typer.Option(help="Weights: a file, a folder, or hf://owner/name.")] = "",
) -> None:
    """Write a folder to begin with: configuration, comments, next steps.

    Nothing that is there already is overwritten.
    """
    if (given := context.meta[GIVEN]) is not None:
        from stoker.cli.installation import install_with

        typer.echo("making the streams; `stoker install-streams` does that from now on", err=True)
        install_with(given)
        return
    if kind not in KINDS:
        listed = "\n".join(f"  stoker init {name:<10} {what}" for name, what in KINDS.items())
        fail(f"say what to begin with{f', not {kind!r}' if kind else ''}:\n{listed}", 2)
    target = folder or Path(f"stoker-{kind}")
    for path in written(kind, target, model):
        typer.echo(f"  {path}")
    typer.echo(f"\nNext:\n\n  cd {target}\n  " + NEXT[kind].replace("\n", "\n  "))


def _is_old_call(args: list[str]) -> bool:
    """Whether NATS is meant, as before: by an option of services, or by the environment alone."""
    is_bare = not args and any(name.startswith("STOKER_NATS") for name in os.environ)
    return is_bare or STREAMS in args[:1] or any(one.startswith(("--nats", "--prefix")) for one in args)


def written(kind: str, target: Path, model: str = "") -> list[Path]:
    """Write the files of a kind; those that were written. Ends the program where one is there already."""
    if kind == "cluster":
        return _copied(DEPLOY, target / "deploy")
    files = {
        target / path.name.removesuffix(TEXT): path.read_text() for path in sorted((TEMPLATES / kind).iterdir())
    }
    if any(path.suffix == ".yaml" for path in files):
        files[target / SCHEMA] = _schema()
    _check_new(list(files))
    target.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        path.write_text(text.replace("{model}", _url(model or MODELS[kind])) if kind in MODELS else text)
    return list(files)


def _schema() -> str:
    """What editors check and complete a configuration by."""
    import msgspec

    from stoker.services.catalog.schema import configuration_schema

    return msgspec.json.format(msgspec.json.encode(configuration_schema()), indent=1).decode() + "\n"


def _url(model: str) -> str:
    """How a configuration names weights."""
    return model if "://" in model else f"file://{Path(model).expanduser().resolve()}"


def _copied(source: Path, target: Path) -> list[Path]:
    """A folder of the package, as files of the user's."""
    if not source.is_dir():
        fail(f"{source} is not there: this installation has no deploy files", 2)
    _check_new([target])
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".env"))
    return sorted(path for path in target.rglob("*") if path.is_file())


def _check_new(paths: list[Path]) -> None:
    for path in paths:
        if path.exists():
            fail(f"{path} is there already; give another folder: stoker init KIND FOLDER", 2)
