"""`stoker replay FILE`: what was recorded, through the core of today."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stoker.cli.app import Json, app, console, fail, print_json

if TYPE_CHECKING:
    from stoker.services.process.recording import Difference, Head

    Replay = Callable[[Head, Iterator[bytes]], Iterator[Difference]]

SHOWN = 20


def cores() -> "dict[str, Replay]":
    """The cores whose recordings can be replayed."""
    from stoker.services.autoscaler import replaying as autoscaler
    from stoker.services.scheduler import replaying as scheduler

    return {autoscaler.CORE: autoscaler.replayed, scheduler.CORE: scheduler.replayed}


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="A recording: made with `--record` of a service.")],
    json: Json = False,
) -> None:
    """Run the core over a recording, and say where it decides otherwise.

    Every invariant is checked on the way.
    """
    from stoker.services.process.recording import BadRecording, read_head

    known = cores()
    try:
        with file.open("rb") as lines:
            head = read_head(lines)
            replayed = known.get(head.core)
            if replayed is None:
                fail(f"{file} is of the core {head.core!r}; known are {', '.join(sorted(known))}")
            differences = list(replayed(head, lines))
    except (OSError, BadRecording) as error:
        fail(f"{file}: {error}", 2)
    if json:
        print_json(differences)
    else:
        _show(differences)
    if differences:
        raise typer.Exit(1)


def _show(differences: "list[Difference]") -> None:
    if not differences:
        console.print("every decision is the same, and every invariant holds")
    for one in differences[:SHOWN]:
        console.print(f"[bold]step {one.step}[/], {one.event} at {one.now:.3f}", highlight=False)
        if one.broken:
            console.print(f"  [red]broken:[/] {one.broken}", highlight=False, soft_wrap=True)
        for sign, described in (("-", one.recorded), ("+", one.replayed)):
            for command in described:
                console.print(f"  {sign} {command}", highlight=False, markup=False, soft_wrap=True)
    if len(differences) > SHOWN:
        console.print(f"… and {len(differences) - SHOWN} more")
