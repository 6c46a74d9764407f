"""What text encoders said of prompts, kept: one that comes again is not read again.

Around the text encoders of a pipeline, whichever it has. A call is known by its tokens and all else that it is
given, and by the LoRAs that lie over the encoder's weights then. So the words of textual inversions are in it,
which are tokens of their own; weights of prompts and layers left out are applied to what is kept (prompts.py).
Of an encoder's layers those are kept that somebody has asked for. A whole call is known, or nothing of it: rows
of a batch are summed in another order than a prompt alone, and a picture has the same bytes every time.

Kept in RAM, copied both ways, up to MAX_BYTES for all models of the engine; the least recently used goes first.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

MAX_BYTES = 256 * 1024**2
"""A prompt of SDXL takes 0.7 MB, one of a T5 4 MB."""
MAX_KEY_BYTES = 64 * 1024
"""Of one tensor that a text encoder is given: what has more is no text."""
UNREAD = "past_key_values"
"""What language models give besides, for going on; no pipeline reads it."""

Key = tuple[Hashable, ...]
Laid = Callable[[str], Hashable]
"""What lies over the weights of a part of a pipeline."""


@dataclass(slots=True)
class _Kept:
    """One call. whole: fields that are tensors, or None. layers: of fields that are tuples, by their number."""

    kind: type[ModelOutput]
    whole: dict[str, Tensor | None]
    counts: dict[str, int]
    layers: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    size_bytes: int = 0


class _Layers(Sequence[Tensor]):
    """The layers of a call, copied when they are asked for. find: gives one that is on no device yet."""

    def __init__(self, count: int, find: Callable[[int], Tensor]) -> None:
        self._count = count
        self._find = find

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        found = range(self._count)[index]
        return self._find(found) if isinstance(found, int) else tuple(map(self._find, found))

    def __iter__(self) -> Iterator[Tensor]:
        return map(self._find, range(self._count))


class Encodings:
    """Not for several threads at a time. size_bytes: of all that is kept."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.size_bytes = 0
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._hits = self._misses = 0

    def counted(self) -> tuple[int, int]:
        """Calls of text encoders since this was asked last: those that were known, and those that were not."""
        found = self._hits, self._misses
        self._hits = self._misses = 0
        return found

    def watch(self, model: str, pipeline: Any, laid: Laid) -> None:
        """Keep what the text encoders of a model's pipeline say."""
        for name, part in pipeline.components.items():
            if "text_encoder" in name and isinstance(part, torch.nn.Module):
                part.forward = self._around(part.forward, (model, name), functools.partial(laid, name))

    def forget(self, model: str) -> None:
        """The model is gone, or is another now."""
        for key in [key for key in self._kept if key[0] == model]:
            self.size_bytes -= self._kept.pop(key).size_bytes

    def _around(
        self, inner: Callable[..., Any], place: Key, laid: Callable[[], Hashable]
    ) -> Callable[..., Any]:
        @functools.wraps(inner)
        def forward(*args: Any, **given: Any) -> Any:
            device = next((one.device for one in (*args, *given.values()) if isinstance(one, Tensor)), None)
            asked = _asked(args, given)
            if device is None or asked is None:
                return inner(*args, **given)
            key = (*place, laid(), *asked)
            read = functools.partial(inner, *args, **given)
            kept = self._kept.get(key)
            if kept is None:
                self._misses += 1
                said = read()
                kept = _kept_of(said)
                if kept is None:
                    return said
                self._kept[key] = kept
                self.size_bytes += kept.size_bytes
                return self._given(key, kept, device, lambda: said)
            self._hits += 1
            return self._given(key, kept, device, functools.cache(read))

        return forward

    def _given(self, key: Key, kept: _Kept, device: torch.device, say: Callable[[], Any]) -> ModelOutput:
        """What is kept, as the encoder gives it. say: gives all of it, for layers that are not kept."""
        self._kept.move_to_end(key)
        self._bound()

        def find(name: str, index: int) -> Tensor:
            layer = kept.layers.get((name, index))
            if layer is None:
                layer = kept.layers[name, index] = _copied(say()[name][index], "cpu")
                if key in self._kept:
                    kept.size_bytes += _bytes_of(layer)
                    self.size_bytes += _bytes_of(layer)
                    self._bound()
            return _copied(layer, device)

        fields: dict[str, Any] = {
            name: None if one is None else _copied(one, device) for name, one in kept.whole.items()
        }
        for name, count in kept.counts.items():
            fields[name] = _Layers(count, functools.partial(find, name))
        return kept.kind(**fields)

    def _bound(self) -> None:
        while self.size_bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.size_bytes -= oldest.size_bytes


def _copied(tensor: Tensor, device: Any) -> Tensor:
    return tensor.detach().to(device, copy=True)


def _bytes_of(tensor: Tensor) -> int:
    size: int = tensor.numel() * tensor.element_size()
    return size


def _asked(args: Sequence[Any], given: dict[str, Any]) -> Key | None:
    """What a call is known by; None for one that is given more than a text."""
    found: list[Hashable] = []
    for name, one in (*enumerate(args), *sorted(given.items())):
        if isinstance(one, Tensor):
            if one.is_floating_point() or _bytes_of(one) > MAX_KEY_BYTES:
                return None
            found.append((name, tuple(one.shape), str(one.dtype), one.cpu().numpy().tobytes()))
        elif one is None or isinstance(one, bool | int | float | str):
            found.append((name, one))
        else:
            return None
    return tuple(found)


def _kept_of(said: Any) -> _Kept | None:
    """The fields of an encoder's answer, without its layers; None for one that has others than tensors."""
    if not isinstance(said, ModelOutput):
        return None
    whole: dict[str, Tensor | None] = {}
    counts: dict[str, int] = {}
    for name, one in said.items():
        if one is None or isinstance(one, Tensor):
            whole[name] = None if one is None else _copied(one, "cpu")
        elif isinstance(one, tuple) and all(isinstance(layer, Tensor) for layer in one):
            counts[name] = len(one)
        elif name != UNREAD:
            return None
    size = sum(_bytes_of(one) for one in whole.values() if one is not None)
    return _Kept(type(said), whole, counts, size_bytes=size)
