"""Resource profiles: what hardware there is, and who starts workers on it.

Either `resourceProfiles: {name: {…}}`, or one `kind: ResourceProfile` document each, with `metadata.name` and
`spec`.
"""

import math
from typing import Any, Literal

import msgspec

from stoker.schemas.catalog import Gpu, ResourceProfile
from stoker.services.catalog.documents import Document, check_keys, convert
from stoker.services.catalog.sizes import check_seconds, read_size

KIND = "ResourceProfile"
KEY = "resourceProfiles"


class GpuEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A GPU as it is written."""

    count: int
    kind: str = ""


class ProfileEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One profile as it is written.

    launcher: who starts workers; static is somebody else. cpu: cores of one unit. memory: of one unit, as 16GB.
    gpu: those of one unit. image: of the container. interpreter: the Python of another environment. env: of the
    worker. datacenters, constraints: where Nomad may place it. inventory: units that there are.
    startTimeoutSeconds: the longest wait for a worker to be ready. pricePerHour: of one unit; 0 is not counted.
    """

    launcher: Literal["static", "process", "docker", "nomad", "kubernetes"] = "static"
    cpu: float = 0.0
    memory: int | str = 0
    gpu: GpuEntry | None = None
    image: str = ""
    interpreter: str = ""
    env: dict[str, str] = {}
    datacenters: tuple[str, ...] = ()
    constraints: dict[str, str] = {}
    inventory: int | None = None
    start_timeout_seconds: float = 600.0
    price_per_hour: float = 0.0


def read_profile(document: Document, path: tuple[str | int, ...], name: str, entry: Any) -> ResourceProfile:
    """One profile. Raises ConfigurationError."""
    given: ProfileEntry = convert(document, path, entry if entry is not None else {}, ProfileEntry)
    if given.launcher in ("docker", "nomad", "kubernetes") and not given.image:
        raise document.place(*path, "image").error(f"the launcher {given.launcher} needs an image")
    if given.inventory is not None and given.inventory < 0:
        raise document.place(*path, "inventory").error("must be 0 or more")
    check_seconds(document, (*path, "startTimeoutSeconds"), given.start_timeout_seconds)
    if not 0 <= given.price_per_hour < math.inf:
        raise document.place(*path, "pricePerHour").error(f"must be 0 or more, not {given.price_per_hour:g}")
    return ResourceProfile(
        name=name,
        launcher=given.launcher,
        cpu=given.cpu,
        memory_bytes=read_size(document, (*path, "memory"), given.memory),
        gpu=Gpu(given.gpu.count, given.gpu.kind) if given.gpu is not None else None,
        image=given.image,
        interpreter=given.interpreter,
        env=given.env,
        datacenters=given.datacenters,
        constraints=given.constraints,
        inventory=given.inventory,
        start_timeout_s=given.start_timeout_seconds,
        price_per_hour=given.price_per_hour,
    )


def profile_document(document: Document) -> ResourceProfile:
    """A `kind: ResourceProfile` document. Raises ConfigurationError."""
    check_keys(document, (), document.content, ("kind", "apiVersion", "metadata", "spec"))
    return read_profile(document, ("spec",), document_name(document), document.content.get("spec"))


def document_name(document: Document) -> str:
    """`metadata.name` of a document with a kind. Raises ConfigurationError."""
    metadata = document.content.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise document.place("metadata", "name").error("missing required field: metadata.name")
    name: str = metadata["name"]
    return name
