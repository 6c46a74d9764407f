"""LoRAs of one pipeline, laid over its weights and taken off again without a trace.

What a run wants is merged into the weights, in float32, always from the originals, which are kept in RAM for as
long as they are changed: so a picture has the same bytes whatever was laid over the weights before. A change
is all or nothing: where a LoRA fails half-way, every weight is put back before anybody is told.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stoker.schemas.catalog import Adapter
from stoker.services.worker.engines.base import EngineError
from stoker.services.worker.engines.images.lora_files import LoraFile, read_lora
from stoker.services.worker.engines.images.lora_patches import Unfit
from stoker.services.worker.models.weights.detect import UnknownCheckpoint
from stoker.services.worker.models.weights.lora import why_unfit

MAX_KEPT = 16
"""LoRAs whose patches are kept in RAM; beyond that those not asked for now are let go."""
SHOWN_STRANGERS = 2

Identity = tuple[int, int, int]
Place = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A LoRA that was read. identity: of its file then. reason: why it is left out; "" when it is not."""

    identity: Identity
    file: LoraFile
    reason: str = ""
    remark: str = ""


@dataclass(frozen=True, slots=True)
class _Original:
    """A weight that was changed, and its value before, in RAM."""

    weight: Tensor
    value: Tensor


class PipelineLoras:
    """The LoRAs of one pipeline, by their path."""

    def __init__(self, pipeline: Any, cross_attention_dim: int | None) -> None:
        self._pipeline = pipeline
        self._dim = cross_attention_dim
        self._kept: dict[str, _Kept] = {}
        self._originals: dict[Place, _Original] = {}
        self._active: tuple[tuple[str, Identity, float], ...] = ()

    def attach(self, loras: Sequence[Adapter]) -> tuple[str, ...]:
        """Read what is not read yet, and try it on the weights: what does not fit is left out, its reason
        returned, and parts of a LoRA that name nothing here are told.

        Raises EngineError when a file cannot be read.
        """
        said: list[str] = []
        for lora in loras:
            kept = self._read(lora, loras)
            said += [f"{lora.name}: {text}" for text in (kept.reason, kept.remark) if text]
        return tuple(said)

    def _read(self, lora: Adapter, needed: Sequence[Adapter]) -> _Kept:
        try:
            identity = _identity(Path(lora.url))
        except OSError as error:
            raise EngineError(f"LoRA {lora.name}: {lora.url}: {error.strerror}", "load_failed") from error
        kept = self._kept.get(lora.url)
        if kept is not None and kept.identity == identity:
            return kept
        wanted = {one.url for one in needed}
        for url in [url for url in self._kept if url not in wanted] if len(self._kept) >= MAX_KEPT else []:
            del self._kept[url]
        self._kept[lora.url] = kept = self._examined(Path(lora.url), identity)
        return kept

    def _examined(self, path: Path, identity: Identity) -> _Kept:
        """A file, tried on the weights. Raises EngineError when it cannot be read."""
        nothing = LoraFile((), ())
        if reason := why_unfit(path, self._dim):
            return _Kept(identity, nothing, reason)
        try:
            found = read_lora(path, self._pipeline)
        except UnknownCheckpoint as error:
            raise EngineError(f"a LoRA cannot be loaded: {error}", "load_failed") from error
        if not found.patches:
            names = ", ".join(found.strangers[:SHOWN_STRANGERS])
            return _Kept(identity, nothing, f"{path.name} names nothing of this model: it has {names}")
        try:
            for patch in found.patches:
                weight = self._weight((patch.component, patch.module))
                if not patch.change(weight.detach().float(), 1.0).any():
                    continue
                break
            else:
                return _Kept(identity, nothing, f"{path.name} changes nothing: its weights are zero")
            for patch in found.patches:
                patch.change(self._weight((patch.component, patch.module)).detach().float(), 1.0)
        except Unfit as error:
            return _Kept(identity, nothing, f"{path.name} is for another model: {error}")
        remark = ""
        if found.strangers:
            names = ", ".join(found.strangers[:SHOWN_STRANGERS])
            share = f"{len(found.strangers)} of {len(found.patches) + len(found.strangers)}"
            remark = f"{share} parts of {path.name} name nothing of this model, such as {names}"
        return _Kept(identity, found, remark=remark)

    def _weight(self, place: Place) -> Tensor:
        """Raises Unfit for a weight that nothing can be added to."""
        component, module = place
        weight: Tensor = getattr(self._pipeline, component).get_submodule(module).weight
        if not weight.is_floating_point() or weight.dtype.itemsize < 2:
            raise Unfit(f"the weights of {module} are quantised ({weight.dtype})")
        return weight

    # Laying them over the weights -----------------------------------------------------------------

    def switch(self, loras: Sequence[Adapter]) -> tuple[str, ...]:
        """Lay exactly these over the weights for the next run; what was left out, with the reason.

        Raises EngineError; the weights are the originals then.
        """
        said = self.attach(loras)
        usable = [lora for lora in loras if not self._kept[lora.url].reason and lora.strength]
        wanted = tuple((one.url, self._kept[one.url].identity, one.strength) for one in usable)
        if wanted == self._active and self._is_untouched():
            return said
        self.take_off()
        try:
            self._lay([(self._kept[lora.url].file, lora.strength) for lora in usable])
        except Unfit as error:
            self.take_off()
            raise EngineError(f"LoRAs cannot be laid over the weights: {error}", "load_failed") from error
        except BaseException:
            self.take_off()
            raise
        self._active = wanted
        return said

    def _lay(self, files: Sequence[tuple[LoraFile, float]]) -> None:
        """Change each weight once, by all that is laid over it."""
        changes: dict[Place, list[tuple[Any, float]]] = {}
        for file, strength in files:
            for patch in file.patches:
                changes.setdefault((patch.component, patch.module), []).append((patch, strength))
        with torch.no_grad():
            for place, patches in changes.items():
                weight = self._weight(place)
                original = weight.detach().float()
                made = original.clone()
                for patch, strength in patches:
                    made += patch.change(original, strength)
                self._originals[place] = _Original(weight, weight.detach().to("cpu", copy=True))
                weight.copy_(made.to(weight.dtype))

    def _is_untouched(self) -> bool:
        """Whether the weights that were changed are still those of the pipeline."""
        return all(self._weight(place) is original.weight for place, original in self._originals.items())

    def laid_over(self, component: str) -> tuple[tuple[str, Identity, float], ...]:
        """What lies over the weights of one component now: paths, files, strengths."""
        return tuple(
            one
            for one in self._active
            if any(patch.component == component for patch in self._kept[one[0]].file.patches)
        )

    def take_off(self) -> None:
        """Put every weight back."""
        with torch.no_grad():
            for original in self._originals.values():
                original.weight.copy_(original.value)
        self._originals.clear()
        self._active = ()


def _identity(path: Path) -> Identity:
    """Of a file's content: another file under the same name is another LoRA."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
