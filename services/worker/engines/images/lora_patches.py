"""What a LoRA changes of which weights, computed from its tensors.

| kind | tensors | change of a weight W |
|---|---|---|
| LoRA | up B, down A, mid M (convolutions) | B A · alpha / rank |
| LoHa | w1_a, w1_b, w2_a, w2_b | (w1_a w1_b) ∘ (w2_a w2_b) · alpha / rank |
| LoKr | w1 or w1_a w1_b, w2 or w2_a w2_b | w1 ⊗ w2 · alpha / rank |
| full | diff | diff |
| DoRA | any of them, and a magnitude m | m (W + change) / ‖W + change‖ − W |

Sources: LoRA (Hu et al. 2021), LyCORIS (Yeh et al. 2023), DoRA (Liu et al. 2024). Computed in float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["LoRA", "LoHa", "LoKr", "full"]
TELLTALES: tuple[tuple[str, Kind], ...] = (
    ("up", "LoRA"),
    ("w1_a", "LoHa"),
    ("lokr_w1", "LoKr"),
    ("lokr_w1_a", "LoKr"),
    ("diff", "full"),
)
"""A tensor that each kind has, first match wins."""


class Unfit(ValueError):
    """A part of a LoRA does not fit the weight that it names, or is of no kind that is known."""


@dataclass(frozen=True, slots=True)
class Patch:
    """The change of one weight: of `module` in the pipeline's `component`. tensors: by role (lora_files.py)."""

    component: str
    module: str
    tensors: Mapping[str, Tensor]

    @property
    def kind(self) -> Kind:
        """Raises Unfit."""
        for role, kind in TELLTALES:
            if role in self.tensors:
                return kind
        raise Unfit(f"{self.module} has {', '.join(sorted(self.tensors))}, which is no LoRA")

    def change(self, weight: Tensor, strength: float) -> Tensor:
        """What is added to a weight (float32, of its shape), made on its device. Raises Unfit."""
        moved = {role: tensor.to(weight.device) for role, tensor in self.tensors.items()}
        return Patch(self.component, self.module, moved)._made(weight, strength)

    def _made(self, weight: Tensor, strength: float) -> Tensor:
        try:
            made = self._plain().reshape(weight.shape)
        except RuntimeError as error:
            shape = "x".join(str(size) for size in self._plain().shape)
            wanted = "x".join(str(size) for size in weight.shape)
            raise Unfit(f"its {self.module} is {shape}, the model's is {wanted}") from error
        except KeyError as error:
            raise Unfit(f"its {self.module} lacks the tensor {error}") from error
        if (magnitude := self.tensors.get("magnitude")) is not None:
            made = _with_magnitude(weight + made, magnitude.float()) - weight
        return made * strength

    def _get(self, role: str) -> Tensor:
        return self.tensors[role].float()

    def _scale(self, rank: int) -> float:
        alpha = self.tensors.get("alpha")
        return float(alpha) / rank if alpha is not None and rank else 1.0

    def _plain(self) -> Tensor:
        """The change without a magnitude, as a matrix or as a convolution's kernel."""
        match self.kind:
            case "LoRA":
                return self._lora()
            case "LoHa":
                return self._loha()
            case "LoKr":
                return self._lokr()
            case "full":
                return self._get("diff")

    def _lora(self) -> Tensor:
        up, down = self._get("up"), self._get("down")
        scale = self._scale(down.shape[0])
        if "mid" in self.tensors:
            mid = self._get("mid")
            return torch.einsum("abxy,bi,oa->oixy", mid, down.flatten(1), up.flatten(1)) * scale
        return up.flatten(1) @ down.flatten(1) * scale

    def _loha(self) -> Tensor:
        scale = self._scale(self._get("w1_b").shape[0])
        if "t1" in self.tensors:
            return self._core("t1", "w1_a", "w1_b") * self._core("t2", "w2_a", "w2_b") * scale
        first = self._get("w1_a") @ self._get("w1_b")
        return first * (self._get("w2_a") @ self._get("w2_b")) * scale

    def _core(self, core: str, outer: str, inner: str) -> Tensor:
        """A convolution's kernel out of its core (Tucker)."""
        return torch.einsum("ijxy,jr,ip->prxy", self._get(core), self._get(inner), self._get(outer))

    def _lokr(self) -> Tensor:
        first, first_rank = self._factor("lokr_w1")
        second, second_rank = self._factor("lokr_w2")
        while first.dim() < second.dim():
            first = first.unsqueeze(-1)
        rank = second_rank or first_rank
        return torch.kron(first.contiguous(), second.contiguous()) * self._scale(rank)

    def _factor(self, name: str) -> tuple[Tensor, int]:
        """A factor, and its rank; 0 where it is whole."""
        if name in self.tensors:
            return self._get(name), 0
        outer, inner = self._get(f"{name}_a"), self._get(f"{name}_b")
        if "lokr_t2" in self.tensors and name == "lokr_w2":
            return torch.einsum("ijxy,ip,jr->prxy", self._get("lokr_t2"), outer, inner), inner.shape[0]
        return outer @ inner, inner.shape[0]


def _with_magnitude(weight: Tensor, magnitude: Tensor) -> Tensor:
    """A weight whose rows (or columns, as the magnitude's shape says) have this length."""
    if magnitude.dim() == 1:  # as peft has it: of each output
        magnitude = magnitude.reshape(-1, *[1] * (weight.dim() - 1))
    while magnitude.dim() < weight.dim():
        magnitude = magnitude.unsqueeze(-1)
    over = [index for index, size in enumerate(magnitude.shape) if size == 1 and weight.shape[index] != 1]
    length = torch.linalg.vector_norm(weight, dim=over or None, keepdim=True)
    return weight * (magnitude / length.clamp_min(torch.finfo(torch.float32).eps))
