"""Every launcher by name, made when a profile first needs it."""

from collections.abc import Callable
from pathlib import Path

from stoker.services.autoscaler.launchers.base import Launcher, Unavailable


def _process(cluster: str, folder: Path) -> Launcher:
    from stoker.services.autoscaler.launchers.process import ProcessLauncher

    return ProcessLauncher(cluster, folder)


def _docker(cluster: str, _: Path) -> Launcher:
    from stoker.services.autoscaler.launchers.docker import DockerLauncher

    return DockerLauncher(cluster)


def _nomad(cluster: str, _: Path) -> Launcher:
    from stoker.services.autoscaler.launchers.nomad import NomadLauncher

    return NomadLauncher(cluster)


def _kubernetes(cluster: str, _: Path) -> Launcher:
    from stoker.services.autoscaler.launchers.kubernetes import KubernetesLauncher

    return KubernetesLauncher(cluster)


LAUNCHERS: dict[str, Callable[[str, Path], Launcher]] = {
    "process": _process,
    "docker": _docker,
    "nomad": _nomad,
    "kubernetes": _kubernetes,
}


def create(name: str, cluster: str, folder: Path) -> Launcher:
    """Make a launcher. Raises Unavailable when there is none of that name."""
    if name not in LAUNCHERS:
        raise Unavailable(f"there is no launcher {name!r}; there are {', '.join(sorted(LAUNCHERS))}")
    return LAUNCHERS[name](cluster, folder)
