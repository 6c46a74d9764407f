"""Jobs: listed, followed, one by its id, cancelled."""

import time
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from stoker.cli.app import FOUND, JobId, Json, Url, app, call, console, print_json

FOLLOW_EVERY_S = 0.5


def jobs_table(jobs: list[dict[str, Any]]) -> Table:
    table = Table(title="jobs", title_justify="left")
    for column in ("job", "model", "status", "age", "worker", "attempt"):
        table.add_column(column)
    for job in jobs:
        age = f"{max(time.time() - job['created_at'], 0):.0f} s"
        table.add_row(
            *(escape(job[name]) for name in ("id", "model", "status")),
            age,
            escape(job.get("worker", "")),
            str(job.get("attempt", 0)),
        )
    return table


@app.command()
def jobs(
    url: Url = FOUND,
    json: Json = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with jobs as they come and change.")
    ] = False,
    status: Annotated[str, typer.Option(help="Only this status.")] = "",
    model: Annotated[str, typer.Option(help="Only this model.")] = "",
    limit: Annotated[int, typer.Option(help="How many.")] = 20,
) -> None:
    """Jobs, newest first."""
    query = {"status": status, "model": model, "limit": limit}
    found = call("GET", url, "/v1/jobs", params=query)
    if follow:
        _follow(url, query, json)
    elif json:
        print_json(found)
    else:
        console.print(jobs_table(found["jobs"]))


def _follow(url: str, query: dict[str, Any], json: bool) -> None:
    """A line for each job and each change of its status, for ever."""
    seen: dict[str, str] = {}
    while True:
        listed = call("GET", url, "/v1/jobs", params=query)["jobs"]
        for job in reversed(listed):
            if seen.get(job["id"]) == job["status"]:
                continue
            if json:
                typer.echo(msgspec.json.encode(job).decode())
            else:
                at = time.strftime("%H:%M:%S")
                typer.echo(f"{at} {job['id']} {job['model']} {job['status']} {job.get('worker', '')}".rstrip())
        seen = {job["id"]: job["status"] for job in listed}
        time.sleep(FOLLOW_EVERY_S)


@app.command()
def job(job: JobId, url: Url = FOUND, json: Json = False) -> None:
    """One job: its state, its times, its result or what went wrong."""
    found = call("GET", url, f"/v1/jobs/{job}")
    if json:
        print_json(found)
        return
    for line in lines_of(found):
        typer.echo(line)


def lines_of(job: dict[str, Any]) -> list[str]:
    """A job as people read it."""
    lines = [f"job {job['id']} ({job['model']}): {job['status']}"]
    if created := job.get("created_at"):
        lines.append(f"made     {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(created))}")
    if worker := job.get("worker"):
        lines.append(f"worker   {worker}, attempt {job.get('attempt', 0)}")
    if timings := job.get("timings"):
        shown = (f"{name.removesuffix('_s')} {seconds:.2f} s" for name, seconds in timings.items())
        lines.append(f"times    {', '.join(shown)}")
    if error := job.get("error"):
        field = f" (field {error['field']})" if error.get("field") else ""
        lines.append(f"error    {error['kind']}: {error['message']}{field}")
    result = job.get("result")
    if isinstance(result, dict) and "text" in result:
        lines += ["result", result["text"]]
    elif isinstance(result, dict) and "images" in result:
        lines += [f"picture  {image['url']} (seed {image['seed']})" for image in result["images"]]
    elif result is not None:
        lines += ["result", msgspec.json.format(msgspec.json.encode(result), indent=2).decode()]
    if not job.get("finished_at"):
        lines.append(
            f"`stoker explain {job['id']}` says why it is where it is; `stoker cancel {job['id']}` ends it"
        )
    return lines


@app.command()
def cancel(job: JobId, url: Url = FOUND, json: Json = False) -> None:
    """Cancel a job, wherever it stands."""
    answer = call("POST", url, f"/v1/jobs/{job}/cancel")
    if json:
        print_json(answer)
    else:
        console.print(f"{job} is cancelled", markup=False)
