"""Using a running system: run, cancel."""

import sys
from pathlib import Path
from typing import Annotated, Any

import httpx
import msgspec
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from stoker.cli.app import DEFAULT_URL, Json, Url, app, call, console, fail, key_header, print_json, problem_of


@app.command()
def cancel(job: str, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Cancel a job, wherever it stands."""
    answer = call("POST", url, f"/v1/jobs/{job}/cancel")
    if json:
        print_json(answer)
    else:
        console.print(f"{job} is cancelled")


@app.command()
def run(
    model: str,
    prompt: str,
    url: Url = DEFAULT_URL,
    json: Json = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File for the image.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed; random otherwise.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of an image.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 = always the same.")] = None,
) -> None:
    """Ask a model: text streams to the terminal, an image is saved with a progress bar."""
    card = call("GET", url, f"/v1/models/{model}")
    given: dict[str, Any] = {"seed": seed}
    if "ImageGeneration" in card["features"] and "TextGeneration" not in card["features"]:
        given |= {"prompt": prompt, "num_inference_steps": steps}
    else:
        message = {"role": "user", "content": prompt}
        given |= {"messages": [message], "max_tokens": max_tokens, "temperature": temperature}
    job_input = {name: value for name, value in given.items() if value is not None}
    accepted = call("POST", url, "/v1/jobs", json={"model": model, "input": job_input})
    ended = _follow(url, accepted, is_quiet=json)
    if ended["status"] != "completed":
        fail(f"{ended['status']}: {ended.get('error', {}).get('message', '')}")
    images = (ended["result"] or {}).get("images", []) if isinstance(ended["result"], dict) else []
    for index, image in enumerate(images):
        path = out or Path(f"{accepted['id']}-{index}.png")
        path.write_bytes(httpx.get(url + image["url"], timeout=30, headers=key_header()).content)
        if not json:
            console.print(f"saved {path} (seed {image['seed']})")
    if json:
        print_json(ended)


def _follow(url: str, accepted: dict[str, Any], *, is_quiet: bool) -> dict[str, Any]:
    """Show a job's events as they come; its terminal event. A broken stream is taken up again."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(), console=console, disable=is_quiet, transient=True,
    )  # fmt: skip
    task = None
    last_id, has_text = "", False
    try:
        while True:
            headers = key_header() | ({"Last-Event-ID": last_id} if last_id else {})
            try:
                with httpx.stream(
                    "GET", url + accepted["urls"]["events"], headers=headers, timeout=60
                ) as answer:
                    if answer.status_code != 200:
                        answer.read()
                        fail(problem_of(answer))
                    for name, event_id, data in _events(answer):
                        last_id = event_id or last_id
                        match name:
                            case "delta" if not is_quiet:
                                has_text = True
                                sys.stdout.write(data["text"])
                                sys.stdout.flush()
                            case "progress":
                                if task is None:
                                    bar.start()
                                    task = bar.add_task("drawing", total=data["steps"])
                                bar.update(task, completed=data["step"])
                            case "completed" | "failed" | "cancelled" | "expired":
                                if has_text:
                                    sys.stdout.write("\n")
                                result: dict[str, Any] = data
                                return result
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.ConnectError):
                continue
    except KeyboardInterrupt:
        httpx.post(f"{url}{accepted['urls']['cancel']}", timeout=5, headers=key_header())
        fail("cancelled", 130)
    finally:
        bar.stop()


def _events(answer: httpx.Response) -> Any:
    """(name, id, data) of each server-sent event."""
    name = event_id = ""
    for line in answer.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "id":
            event_id = value
        elif field == "data":
            yield name, event_id, msgspec.json.decode(value)
