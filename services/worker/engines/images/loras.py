"""LoRAs of one pipeline: loaded once, switched per run without touching the weights below them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from schemas.catalog import Adapter
from services.worker.engines.base import EngineError
from services.worker.models.weights.lora import why_unfit

MAX_LOADED = 16
"""LoRAs kept beside a pipeline; beyond that those not asked for now are let go."""


class PipelineLoras:
    """The LoRAs that lie beside one pipeline, by their path."""

    def __init__(self, pipeline: Any, cross_attention_dim: int | None) -> None:
        self._pipeline = pipeline
        self._dim = cross_attention_dim
        self._names: dict[str, str] = {}
        self._active: tuple[tuple[str, float], ...] = ()

    def attach(self, loras: Sequence[Adapter]) -> tuple[str, ...]:
        """Load what is not loaded yet; what does not fit is left out, its reason returned.

        Raises EngineError when a LoRA cannot be read.
        """
        skipped: list[str] = []
        for lora in loras:
            if lora.url in self._names:
                continue
            reason = self._why_unfit(lora)
            if reason:
                skipped.append(f"{lora.name}: {reason}")
                continue
            self._make_room(loras)
            name = f"{lora.name}_{crc32(lora.url.encode()):08x}".replace(".", "_")
            try:
                self._pipeline.load_lora_weights(lora.url, adapter_name=name, local_files_only=True)
            except (OSError, ValueError, RuntimeError, KeyError) as error:
                raise EngineError(f"LoRA {lora.name} cannot be loaded: {error}", "load_failed") from error
            self._names[lora.url] = name
            self._active = (("", 0.0),)  # loading switched it on: the next run decides anew
        return tuple(skipped)

    def _why_unfit(self, lora: Adapter) -> str:
        if not hasattr(self._pipeline, "load_lora_weights"):
            return f"{type(self._pipeline).__name__} takes no LoRAs"
        return why_unfit(Path(lora.url), self._dim)

    def _make_room(self, needed: Sequence[Adapter]) -> None:
        if len(self._names) < MAX_LOADED:
            return
        wanted = {lora.url for lora in needed}
        gone = [url for url in self._names if url not in wanted]
        self._pipeline.delete_adapters([self._names.pop(url) for url in gone])

    def switch(self, loras: Sequence[Adapter]) -> tuple[str, ...]:
        """Lay exactly these over the weights for the next run; the ones skipped, with the reason."""
        skipped = self.attach(loras)
        active = tuple((self._names[lora.url], lora.strength) for lora in loras if lora.url in self._names)
        if active != self._active and self._names:
            if active:
                self._pipeline.enable_lora()
                self._pipeline.set_adapters([name for name, _ in active], [weight for _, weight in active])
            else:
                self._pipeline.disable_lora()
        self._active = active
        return skipped
