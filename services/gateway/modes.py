"""Modes as one gateway sees them: which there are, which is current, what is loaded where.

`current` is the mode that requests without one use. It lies in the catalog bucket, so that every gateway has
the same. A switch, or a request that names another mode, makes it `pending` here: requests that come after it
already mean it; it becomes current when its model is loaded, and is forgotten when that fails.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from stoker.schemas.catalog import Adapter, Model
from stoker.schemas.workers import Heartbeat, ResidentModel
from stoker.services.catalog.store import CURRENT, DEFAULT
from stoker.services.gateway.edge.problems import RequestError

GB = 1e9


class Modes:
    """The modes among the models of the catalog. Where no modes file is, every image model is one."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models
        self._noted: dict[str, str] = {}
        self.pending = ""
        self.error = ""

    def noted(self, name: str, mode: str) -> None:
        """A note in the catalog: `current` or `default`."""
        self._noted[name] = mode

    def all(self) -> dict[str, Model]:
        images = {n: model for n, model in self._models.items() if "ImageGeneration" in model.features}
        return {n: model for n, model in images.items() if model.mode is not None} or images

    @property
    def default(self) -> str:
        known = self.all()
        noted = self._noted.get(DEFAULT, "")
        return noted if noted in known else next(iter(known), "")

    @property
    def current(self) -> str:
        noted = self._noted.get(CURRENT, "")
        return noted if noted in self.all() else self.default

    def find(self, name: str | None) -> Model:
        """The mode of a request; without a name the one that is, or is about to be, current.

        Raises RequestError 404 with the known ones, 503 when there is none at all.
        """
        known = self.all()
        if not known:
            raise RequestError(503, "no mode is configured: write a modes.yaml, or set MODEL_ROOT and MODEL")
        chosen = name if name is not None else self.pending or self.current
        if chosen not in known:
            raise RequestError(
                404,
                f"Mode {chosen!r} not found. Available modes: {sorted(known)}",
                field="mode",
                code="mode_not_found",
            )
        return known[chosen]


def mode_body(model: Model) -> dict[str, Any]:
    """A mode as `GET /api/modes` shows it."""
    spec = model.specs[0]
    body: dict[str, Any] = {"model": spec.url, "loras": [_lora_body(lora) for lora in spec.loras]}
    mode = model.mode
    if mode is None:
        defaults = model.defaults
        return body | {
            "default_size": f"{defaults['width']}x{defaults['height']}" if "width" in defaults else None,
            "default_steps": defaults.get("num_inference_steps"),
            "default_guidance": defaults.get("guidance_scale"),
        }
    body |= {
        "model": mode.model,
        "default_size": mode.default_size,
        "default_steps": mode.default_steps,
        "default_guidance": mode.default_guidance,
    }
    return body | ({"metadata": mode.metadata} if mode.metadata else {})


def _lora_body(lora: Adapter) -> dict[str, Any]:
    path = lora.url.removeprefix("file://")
    return {"path": path, "strength": lora.strength, "adapter_name": lora.name}


def vram_body(worker: Heartbeat, modes: Mapping[str, Model]) -> dict[str, Any]:
    """Memory of a worker's device, in GB (10^9 bytes), and what lies in it."""
    measured = worker.resources
    total = measured.gpu_total_bytes or worker.memory_total_bytes
    used = measured.gpu_used_bytes if measured.gpu_used_bytes is not None else worker.memory_used_bytes
    allocated = measured.gpu_allocated_bytes
    loaded = _loaded(worker.models, modes)
    return {
        "device": worker.device,
        "total_gb": round(total / GB, 3),
        "used_gb": round(used / GB, 3),
        "available_gb": round(max(total - used, 0) / GB, 3),
        "usage_percent": round(100 * used / total, 1) if total else 0.0,
        "models_loaded": len(loaded),
        "models": loaded,
        "allocated_gb": round((allocated if allocated is not None else worker.memory_used_bytes) / GB, 3),
    }


def _loaded(residents: Iterable[ResidentModel], modes: Mapping[str, Model]) -> list[dict[str, Any]]:
    """What is in device memory: modes of one checkpoint share an entry, named after the first of them."""
    found: dict[str, dict[str, Any]] = {}
    for resident in residents:
        if resident.tier != "hot":
            continue
        weights = resident.weights or resident.model
        model = modes.get(resident.model)
        loras = [lora.name for spec in model.specs for lora in spec.loras] if model is not None else []
        entry = found.setdefault(
            weights,
            {
                "name": resident.model,
                "model_path": resident.path,
                "vram_gb": round(resident.memory_bytes / GB, 3),
                "loras": [],
            },
        )
        entry["loras"] += [name for name in loras if name not in entry["loras"]]
        if resident.skipped:
            entry["skipped_loras"] = [*entry.get("skipped_loras", ()), *resident.skipped]
    return list(found.values())
