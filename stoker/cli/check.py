"""`stoker check`: what a configuration means."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stoker.cli.app import Json, app, console, print_json
from stoker.cli.serve import read_configuration, warn

if TYPE_CHECKING:
    from stoker.schemas.catalog import Spec


@app.command()
def check(paths: Annotated[list[Path], typer.Argument(help="Files or folders.")], json: Json = False) -> None:
    """Read a configuration and say what it means, or what is wrong with it."""
    import yaml

    configuration = read_configuration(paths)
    if json:
        print_json(
            {
                "models": configuration.models,
                "profiles": configuration.profiles,
                "workers": configuration.workers,
                "warnings": configuration.warnings,
            }
        )
        return
    warn(configuration)
    for model in configuration.models:
        console.print(f"model [bold]{model.name}[/]: {', '.join(model.features)}", highlight=False)
        for spec in model.specs:
            effective = yaml.safe_dump(
                [_effective(spec)], sort_keys=False, default_flow_style=False, width=1000
            )
            console.print("  " + effective.rstrip().replace("\n", "\n  "), markup=False, soft_wrap=True)
    for profile in configuration.profiles:
        inventory = f", {profile.inventory} units" if profile.inventory is not None else ""
        console.print(f"profile [bold]{profile.name}[/]: {profile.launcher}{inventory}")
    for worker in configuration.workers:
        memory = f", {worker.memory}" if worker.memory else ""
        console.print(f"workers: {worker.count} of profile {worker.profile}{memory}")


def _effective(spec: "Spec") -> dict[str, Any]:
    """A spec as it is after everything was merged, in the words of a `kind: Model` document."""
    written: dict[str, Any] = {
        "spec": spec.name,
        "engine": spec.engine,
        "url": spec.url,
        "size": f"{spec.size_bytes / 1e6:.1f} MB" if spec.size_bytes else "",
        "args": list(spec.args),
        "env": dict(spec.env),
        "files": [file.path for file in spec.files],
        "options": dict(spec.options),
        "resourceProfile": f"{spec.profile}:{spec.profile_count}" if spec.profile else "",
        "launcher": spec.launcher,
        "minReplicas": spec.min_replicas,
        "maxReplicas": spec.max_replicas,
        "simultaneousScaleUpGroup": spec.scale_group,
        "adapters": [adapter.name for adapter in spec.adapters],
    }
    shown = {key: value for key, value in written.items() if value}
    if spec.profile:
        shown |= {"targetRequests": spec.target_requests, "scaleDownDelaySeconds": spec.scale_down_delay_s}
    return shown
