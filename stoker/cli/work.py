"""Using a running system: run, cancel."""

import sys
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from stoker.cli.app import DEFAULT_URL, Json, Url, app, call, console, fail, print_json
from stoker.cli.made_with import NotTold, request_of
from stoker.client import Client, Job
from stoker.functions.errors import CallFailed

FORMATS = {".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
"""What a picture is asked for as, by the name of the file that it is to be in; else it is a PNG."""


@app.command()
def cancel(job: str, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Cancel a job, wherever it stands."""
    answer = call("POST", url, f"/v1/jobs/{job}/cancel")
    if json:
        print_json(answer)
    else:
        console.print(f"{job} is cancelled", markup=False)


@app.command()
def run(
    model: str,
    prompt: Annotated[str, typer.Argument(help="May be left out with --from.")] = "",
    url: Url = DEFAULT_URL,
    json: Json = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File for the image: .png, .jpg or .webp.")
    ] = None,
    like: Annotated[
        Path | None, typer.Option("--from", help="A picture: what it says of its making, unless given here.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed; random otherwise.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of an image.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 = always the same.")] = None,
) -> None:
    """Ask a model: text streams to the terminal, an image is saved with a progress bar."""
    if not prompt and like is None:
        fail("write a prompt, or --from a picture")
    card = call("GET", url, f"/v1/models/{model}")
    given: dict[str, Any] = {"seed": seed}
    if "ImageGeneration" in card["features"] and "TextGeneration" not in card["features"]:
        given |= {"prompt": prompt or None, "num_inference_steps": steps}
        given["output_format"] = FORMATS.get(out.suffix.lower()) if out is not None else None
        given = _made_like(like) | {name: value for name, value in given.items() if value is not None}
        if not given["prompt"]:
            fail(f"{like} does not say its prompt: write one")
    elif like is not None:
        fail(f"{model} draws no pictures, so --from says nothing to it")
    else:
        message = {"role": "user", "content": prompt}
        given |= {"messages": [message], "max_tokens": max_tokens, "temperature": temperature}
    job_input = {name: value for name, value in given.items() if value is not None}
    accepted = call("POST", url, "/v1/jobs", json={"model": model, "input": job_input})
    client = Client(url)
    _follow(url, client.job(accepted["id"]), is_quiet=json)
    ended = call("GET", url, f"/v1/jobs/{accepted['id']}")
    if ended["status"] != "completed":
        fail(f"{ended['status']}: {ended.get('error', {}).get('message', '')}")
    images = (ended["result"] or {}).get("images", []) if isinstance(ended["result"], dict) else []
    for index, image in enumerate(images):
        suffix = image.get("content_type", "image/png").rpartition("/")[2]
        path = out or Path(f"{accepted['id']}-{index}.{suffix}")
        path.write_bytes(client.get(image["url"]))
        if not json:
            console.print(f"saved {path} (seed {image['seed']})", markup=False)
    if json:
        print_json(ended)


def _made_like(picture: Path | None) -> dict[str, Any]:
    """The fields of a request that makes a picture again."""
    if picture is None:
        return {}
    try:
        return request_of(picture.read_bytes())
    except (OSError, NotTold) as error:
        fail(f"--from {picture}: {error}")


def _follow(url: str, job: Job, *, is_quiet: bool) -> None:
    """Show a job's events as they come, to its end."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(), console=console, disable=is_quiet, transient=True,
    )  # fmt: skip
    task = None
    has_text = False
    try:
        for event in job.events():
            if event.name == "delta" and not is_quiet:
                has_text = True
                sys.stdout.write(event.data["text"])
                sys.stdout.flush()
            elif event.name == "progress":
                if task is None:
                    bar.start()
                    task = bar.add_task("drawing", total=event.data["steps"])
                bar.update(task, completed=event.data["step"])
    except KeyboardInterrupt:
        job.cancel()
        fail("cancelled", 130)
    except CallFailed as error:
        fail(str(error))
    except httpx.HTTPError as error:
        fail(f"no gateway answers at {url} ({error}); `stoker job {job.id}` shows the job", 2)
    finally:
        if task is not None:  # one that never began writes an empty line where it ends
            bar.stop()
    if has_text:
        sys.stdout.write("\n")
