"""`stoker run`: one question to a model."""

import secrets
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from stoker.cli import asking, finding
from stoker.cli.app import Json, app, fail, print_json
from stoker.cli.quick import import_httpx
from stoker.cli.watching import Answer, watch

GIVE_UP_S = 5.0
"""How long whoever interrupts an answer waits at most for its job to be cancelled, a request; and for a gateway
that listens.
"""
AGAIN_S = 0.1
FORMATS = {".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
"""What a picture is asked for as, by the name of the file that it is to be in; else it is a PNG."""


@app.command()
def run(
    model: Annotated[
        str, typer.Argument(help="A name, a file (.gguf, .safetensors, folder), or hf://owner/name.")
    ],
    prompt: Annotated[str, typer.Argument(help="What is piped in is put below it.")] = "",
    url: finding.MayUrl = "",
    json: Json = False,
    system: asking.System = "",
    image: asking.Image = None,
    schema: asking.Schema = None,
    form: Annotated[str, typer.Option("--format", help="json: the answer is JSON of some shape.")] = "",
    max_tokens: asking.MaxTokens = None,
    temperature: asking.Temperature = None,
    top_p: asking.TopP = None,
    top_k: asking.TopK = None,
    min_p: asking.MinP = None,
    stop: asking.Stop = None,
    seed: asking.Seed = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File for the image: .png, .jpg or .webp.")
    ] = None,
    like: Annotated[
        Path | None, typer.Option("--from", help="A picture: what it says of its making, unless given here.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of an image.")] = None,
    engine: finding.Engine = "",
) -> None:
    """Ask a model: text streams to the terminal, an image is saved.

    A server is found by itself; where none runs, one is started in the background, and ends when it is idle.
    """
    prompt = asking.with_input(prompt)
    if not prompt and like is None:
        fail("write a prompt, or --from a picture")
    asked = finding.locate(model, url, engine)
    features = asked.card["features"]
    of_texts = (
        ("--system", system), ("--image", image), ("--schema", schema), ("--format", form),
        ("--max-tokens", max_tokens), ("--temperature", temperature), ("--top-p", top_p), ("--top-k", top_k),
        ("--min-p", min_p), ("--stop", stop),
    )  # fmt: skip
    if "ImageGeneration" in features and "TextGeneration" not in features:
        _refuse(of_texts, f"{model} writes no text")
        given = _drawing(prompt, seed, steps, out, like)
    else:
        _refuse((("--from", like), ("--out", out), ("--steps", steps)), f"{model} draws no pictures")
        wanted = asking.response_format(schema, form)
        options = asking.Options(seed, max_tokens, temperature, top_p, top_k, min_p, tuple(stop or ()), wanted)
        said = [{"role": "system", "content": system}] if system else []
        given = {"messages": [*said, asking.user_message(prompt, image or [])], **options.fields()}
    answer, job = ask(asked, given, is_quiet=json)
    _save(asked, answer, job, out, is_quiet=json)
    if json:
        print_json(answer.end)
    elif summary := answer.summary():
        finding.say(summary)


def ask(asked: finding.Asked, given: dict[str, Any], *, is_quiet: bool = False) -> tuple[Answer, Any]:
    """Submit a job and show it to its end; Ctrl-C, or a terminal that is closed, cancels it. Ends the program
    where it fails.
    """
    for one in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(one) is signal.SIG_DFL:  # not under nohup
            signal.signal(one, signal.default_int_handler)
    import_httpx()
    import httpx

    from stoker.client import Client
    from stoker.functions.errors import CallFailed

    client, name, job = Client(asked.url), secrets.token_hex(16), None
    try:
        job = client.submit_job(asked.name, given, name=name)
        return watch(job.events(), asked.name, is_quiet=is_quiet), job
    except KeyboardInterrupt:
        is_over = _give_up(asked, given, name)
        fail("cancelled" if is_over else f"interrupted; its job may go on: {asked.url} does not answer", 130)
    except CallFailed as error:
        fail(str(error))
    except OSError:  # nobody reads the answer any more, or it cannot be written
        _give_up(asked, given, name)
        raise
    except httpx.HTTPError as error:
        where = f"; `stoker job {job.id}` shows the job" if job is not None else "; is `stoker up` running?"
        fail(f"no gateway answers at {asked.url} ({error}){where}", 2)


def _refuse(options: Sequence[tuple[str, Any]], why: str) -> None:
    """Ends the program where one of them is given."""
    for name, value in options:
        if value not in (None, "", []):
            fail(f"{why}, so {name} says nothing to it")


def _give_up(asked: finding.Asked, given: dict[str, Any], name: str) -> bool:
    """Cancel the job of a submission, unless it has ended; False where that could not be asked. Its answer may
    not have come yet: asked again under the same name, it tells the job's id. Where nobody listens, a gateway
    may be starting again.
    """
    import httpx

    from stoker.client import Client
    from stoker.functions.errors import CallFailed

    give_up_at = time.monotonic() + GIVE_UP_S
    with Client(asked.url, timeout_s=GIVE_UP_S) as client:
        while True:
            try:
                client.submit_job(asked.name, given, name=name).cancel()
            except CallFailed as error:
                return error.status < 500  # it has ended, or never was accepted
            except httpx.ConnectError:
                if time.monotonic() < give_up_at:
                    time.sleep(AGAIN_S)
                    continue
                return False
            except httpx.HTTPError:
                return False
            return True


def _drawing(
    prompt: str, seed: int | None, steps: int | None, out: Path | None, like: Path | None
) -> dict[str, Any]:
    """The request for a picture."""
    form = FORMATS.get(out.suffix.lower()) if out is not None else None
    given = {"prompt": prompt or None, "seed": seed, "num_inference_steps": steps, "output_format": form}
    made = _made_like(like) | {name: value for name, value in given.items() if value is not None}
    if not made.get("prompt"):
        fail(f"{like} does not say its prompt: write one")
    return made


def _save(asked: finding.Asked, answer: Answer, job: Any, out: Path | None, *, is_quiet: bool) -> None:
    """Write the pictures of an answer to files."""
    result = answer.end.get("result")
    images = result.get("images", []) if isinstance(result, dict) else []
    for index, image in enumerate(images):
        suffix = image.get("content_type", "image/png").rpartition("/")[2]
        path = out or Path(f"{job.id}-{index}.{suffix}")
        path.write_bytes(job.content(image["url"]))
        if not is_quiet:
            typer.echo(f"saved {path} (seed {image['seed']})")


def _made_like(picture: Path | None) -> dict[str, Any]:
    """The fields of a request that makes a picture again."""
    if picture is None:
        return {}
    from stoker.cli.made_with import NotTold, request_of

    try:
        return request_of(picture.read_bytes())
    except (OSError, NotTold) as error:
        fail(f"--from {picture}: {error}")
