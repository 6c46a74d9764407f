"""Names of replicas: they are worker names, container names, Nomad job names and names of Pods at once."""

import re

MAX_PART_CHARS = 40
_OTHER = re.compile(r"[^a-z0-9]+")


def replica_id(model: str, spec: str, term: int, count: int) -> str:
    """Unique through the leader's term, which grows with every leader; readable in every listing."""
    parts = [_OTHER.sub("-", part.lower()).strip("-")[:MAX_PART_CHARS] or "x" for part in (model, spec)]
    return f"{parts[0]}-{parts[1]}-{term:x}-{count}"
