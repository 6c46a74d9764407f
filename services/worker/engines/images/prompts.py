"""Prompts longer than a text encoder reads: in pieces where that is exact, else what is cut is counted.

CLIP reads 77 tokens: a beginning, 75, an end. The pipelines of SD1.5 and SDXL cut off the rest. Here such a
prompt becomes pieces of 75 tokens, each encoded by itself as the pipelines do it, and laid end to end; the
negative prompt gets as many pieces. The pooled embedding of SDXL is that of the first piece. Prompts that fit
go the pipelines' own way. Other pipelines cut: how many tokens no encoder has seen is told.

A request that leaves out layers (`clip_skip`) is encoded here too: SD1.5's pipeline of diffusers fails at it
with some versions of transformers. Where a request says so, prompts have weights (see weights.py): what an
encoder says of a token is multiplied by its weight, and all of a piece by what restores its mean, as A1111 has
it; a BREAK begins a piece. SDXL's pooled embedding has no weights. Pipelines without pieces draw the text
alone, and that is told.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stoker.services.worker.engines.base import EngineError
from stoker.services.worker.engines.images.weights import (
    Run,
    Section,
    has_weights,
    parsed,
    plain,
    unknown_syntax,
)

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline")
XL_PIPELINES = tuple(name.replace("Diffusion", "DiffusionXL") for name in PIPELINES)
TEXTS = ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2")
T5_TOKENS = 128
"""What Kandinsky 3 reads, whatever its tokenizer says."""
MAX_PIECES = 64
"""Of one prompt: 4,800 tokens. What is longer is cut, and told."""
MAX_WEIGHT = 20.0
NO_MEAN = 1e-4
"""Of the mean size of an embedding's numbers: means below that say nothing."""
Piece = list[tuple[int, float]]
"""Up to 75 tokens with their weights, without beginning and end."""


def _is_xl(pipeline: Any) -> bool:
    return type(pipeline).__name__ in XL_PIPELINES


def encoders_of(pipeline: Any) -> list[tuple[Any, Any]]:
    """Tokenizers with their text encoders, in the pipeline's order."""
    names = [("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")]
    pairs = [tuple(getattr(pipeline, name, None) for name in pair) for pair in names]
    return [
        (tokenizer, encoder) for tokenizer, encoder in pairs if tokenizer is not None and encoder is not None
    ]


def takes_pieces(pipeline: Any) -> bool:
    """Whether prompts may be given to a pipeline as pieces, and with weights."""
    return type(pipeline).__name__ in PIPELINES + XL_PIPELINES


def pieces_of(pipeline: Any, texts: Sequence[str | None], weighted: bool = False) -> int:
    """How many pieces these texts need together; 1 where they fit, or where the pipeline takes no pieces.

    weighted: brackets and BREAK in them mean something.
    """
    if not takes_pieces(pipeline):
        return 1
    most = 1
    for tokenizer, _ in encoders_of(pipeline):
        for text in texts:
            if text:
                most = max(most, len(_pieces(tokenizer, text, weighted)))
    return min(most, MAX_PIECES)


def readable(pipeline: Any, given: dict[str, Any], weighted: bool = False) -> dict[str, Any]:
    """The arguments of a call with prompts as a pipeline can read them: as they are, as text without brackets,
    or as embeddings. Raises EngineError for a weight out of range.
    """
    texts = texts_of(given)
    if weighted:
        _check_weights(texts)
    pieces = pieces_of(pipeline, texts, weighted)
    if takes_pieces(pipeline) and (
        pieces > 1
        or "clip_skip" in given
        or (weighted and any(map(has_weights, texts)))
        or any(_names_embedding(pipeline, text) for text in texts)
    ):
        return in_pieces(pipeline, given, pieces, weighted)
    return (
        {name: _plain(value) if name in TEXTS else value for name, value in given.items()}
        if weighted
        else given
    )


def texts_of(given: dict[str, Any]) -> list[str]:
    """All prompts of a call."""
    found = (given.get(name) for name in TEXTS)
    return [text for one in found for text in ([one] if isinstance(one, str) else one or [])]


def weights_remark(pipeline: Any, texts: Sequence[str]) -> str:
    """What of the syntax of weighted prompts a pipeline does not draw; "" where it draws all of it."""
    said: list[str] = []
    if not takes_pieces(pipeline) and any(map(has_weights, texts)):
        said.append(f"{type(pipeline).__name__} takes no prompt weights: the text was drawn without them")
    if unknown := next(filter(None, map(unknown_syntax, texts)), ""):
        said.append(f"{unknown} in the prompt were drawn as text")
    return "; ".join(said)


def _check_weights(texts: Sequence[str]) -> None:
    """Raises EngineError."""
    for text in texts:
        for run in (run for section in parsed(text) for run in section):
            if abs(run.weight) > MAX_WEIGHT:
                message = f"a weight in a prompt is {MAX_WEIGHT:g} at most, not {run.weight:g}"
                raise EngineError(message, "validation", field="prompt")


def _plain(text: str | list[str]) -> str | list[str]:
    return plain(text) if isinstance(text, str) else [plain(one) for one in text]


def _ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text without beginning and end; a textual inversion is all its vectors, `x`, `x_1`, …"""
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    added = tokenizer.added_tokens_encoder
    names = {number: name for name, number in added.items()}
    whole: list[int] = []
    for token in found:
        whole.append(token)
        index = 1
        while token in names and (further := added.get(f"{names[token]}_{index}")) is not None:
            whole.append(further)
            index += 1
    return whole


def _names_embedding(pipeline: Any, text: str) -> bool:
    """Whether a word of a text is a textual inversion."""
    for tokenizer, _ in encoders_of(pipeline)[:1]:
        own = set(tokenizer.added_tokens_encoder.values()) - set(tokenizer.all_special_ids)
        if own and not own.isdisjoint(_ids(tokenizer, text)):
            return True
    return False


def in_pieces(pipeline: Any, given: dict[str, Any], pieces: int, weighted: bool = False) -> dict[str, Any]:
    """The arguments of a call with embeddings in place of the prompts. pieces: of `pieces_of`.

    Embeddings are [prompts, 77 x pieces, width].
    """
    reader = _Reader(pipeline, pieces, weighted)
    kept = {name: value for name, value in given.items() if name not in (*TEXTS, "clip_skip")}
    prompts = _as_list(given["prompt"], 1)
    negative = given.get("negative_prompt")
    skip = given.get("clip_skip")
    if not _is_xl(pipeline):
        kept["prompt_embeds"] = reader.encoded(prompts, skip)
        texts = _as_list(negative or "", len(prompts))
        kept["negative_prompt_embeds"] = reader.encoded(texts, None)
        return kept
    second = _as_list(given.get("prompt_2") or prompts, len(prompts))
    kept |= reader.encoded_xl([prompts, second], skip, "")
    if negative is None and pipeline.config.force_zeros_for_empty_prompt:
        zeros = {
            f"negative_{name}": torch.zeros_like(kept[name])
            for name in ("prompt_embeds", "pooled_prompt_embeds")
        }
        return kept | zeros
    texts = _as_list(negative or "", len(prompts))
    other = _as_list(given.get("negative_prompt_2") or texts, len(prompts))
    return kept | reader.encoded_xl([texts, other], None, "negative_")


def _as_list(text: str | list[str], count: int) -> list[str]:
    return [text] * count if isinstance(text, str) else list(text)


def _pieces(tokenizer: Any, text: str, weighted: bool) -> list[Piece]:
    """The pieces of a text, one at least; each run of a weighted one is tokenized by itself, as in A1111."""
    sections: Sequence[Section] = parsed(text) if weighted else ((Run(text),),)
    room = tokenizer.model_max_length - 2
    pieces: list[Piece] = []
    for section in sections:
        tokens = [(token, run.weight) for run in section for token in _ids(tokenizer, run.text)]
        pieces += [tokens[at : at + room] for at in range(0, max(len(tokens), 1), room)]
    return pieces


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads texts by the encoders of a pipeline, each in as many pieces. weighted: as in `pieces_of`."""

    pipeline: Any
    pieces: int
    weighted: bool

    def encoded(self, texts: Sequence[str], skip: int | None) -> torch.Tensor:
        """Embeddings as SD1.5 has them: the last layer's, or `skip` layers before it, normed."""
        ((tokenizer, encoder),) = encoders_of(self.pipeline)
        said, weights = self._said(tokenizer, encoder, texts)
        if skip is None:
            return _joined(_weighted(said[0], weights), len(texts))
        with torch.inference_mode():
            # some versions of transformers have the layers in the encoder itself
            norm = getattr(encoder, "text_model", encoder).final_layer_norm
            normed = norm(said.hidden_states[-(skip + 1)])
        return _joined(_weighted(normed, weights), len(texts))

    def encoded_xl(
        self, texts: Sequence[Sequence[str]], skip: int | None, prefix: str
    ) -> dict[str, torch.Tensor]:
        """Embeddings as SDXL has them: of both encoders the last layer but one; the second's pooled ones."""
        hidden: list[torch.Tensor] = []
        pooled: torch.Tensor | None = None
        encoders = encoders_of(self.pipeline)
        for (tokenizer, encoder), own in zip(encoders, texts[-len(encoders) :], strict=True):
            said, weights = self._said(tokenizer, encoder, own)
            if pooled is None and said[0].ndim == 2:
                pooled = said[0][:: self.pieces]
            layer = said.hidden_states[-2 if skip is None else -(skip + 2)]
            hidden.append(_joined(_weighted(layer, weights), len(own)))
        assert pooled is not None, "the second text encoder of SDXL has a pooled output"
        return {f"{prefix}prompt_embeds": torch.cat(hidden, dim=-1), f"{prefix}pooled_prompt_embeds": pooled}

    def _said(self, tokenizer: Any, encoder: Any, texts: Sequence[str]) -> tuple[Any, torch.Tensor]:
        """What the encoder says of the pieces of all texts, one after the other, and the weights of their
        tokens [texts x pieces, 77].
        """
        rows = [row for text in texts for row in self._rows(tokenizer, text)]
        ids = torch.tensor([[token for token, _ in row] for row in rows], device=encoder.device)
        uses_mask = getattr(encoder.config, "use_attention_mask", False)
        mask = (ids != tokenizer.pad_token_id).long() if uses_mask else None
        with torch.inference_mode():
            said = encoder(ids, attention_mask=mask, output_hidden_states=True)
        return said, torch.tensor([[weight for _, weight in row] for row in rows], device=encoder.device)

    def _rows(self, tokenizer: Any, text: str) -> list[Piece]:
        """The pieces of a text with their beginning and end, filled up to 77, and empty ones after them."""
        found = _pieces(tokenizer, text, self.weighted)[: self.pieces]
        found += [[] for _ in range(self.pieces - len(found))]
        begin, end, pad = ((one, 1.0) for one in _ends(tokenizer))
        rows = [[begin, *piece, end] for piece in found]
        return [row + [pad] * (tokenizer.model_max_length - len(row)) for row in rows]


def _ends(tokenizer: Any) -> tuple[int, int, int]:
    """The tokens before a piece, after it, and those that fill it up."""
    return tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id


def _weighted(hidden: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """[rows, 77, width] times the weights of its tokens; the mean of each row stays what it was.

    A mean that is nothing but rounding is left alone: to divide by it would make noise.
    """
    changed = (weights != 1).any(dim=1)
    if not changed.any():
        return hidden
    before = hidden.float()
    made = before * weights.unsqueeze(-1)
    was, is_ = before.mean(dim=(1, 2), keepdim=True), made.mean(dim=(1, 2), keepdim=True)
    least = NO_MEAN * before.abs().mean(dim=(1, 2), keepdim=True)
    made = made * torch.where((was.abs() < least) | (is_.abs() < least), 1.0, was / is_)
    return torch.where(changed.view(-1, 1, 1), made.to(hidden.dtype), hidden)


def _joined(hidden: torch.Tensor, texts: int) -> torch.Tensor:
    """[texts x pieces, 77, width] to [texts, pieces x 77, width]."""
    return hidden.reshape(texts, -1, hidden.shape[-1])


def cut_tokens(pipeline: Any, texts: Sequence[str], weighted: bool = False) -> int:
    """How many tokens of the prompts no encoder of the pipeline sees: 0 where all are seen.

    Where a pipeline has several encoders, a token counts that the one which reads most does not see.
    """
    if takes_pieces(pipeline):
        tokenizers = [one for one, _ in encoders_of(pipeline)]
        over = [[_unread(one, text, weighted) for one in tokenizers] for text in texts if text]
    else:
        seen = [(one, _limit(pipeline, one)) for one in _tokenizers(pipeline)]
        read = [plain(text) if weighted else text for text in texts if text]
        over = [[_count(one, text) - most for one, most in seen] for text in read]
    return sum(max(min(one, default=0), 0) for one in over)


def _count(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _unread(tokenizer: Any, text: str, weighted: bool) -> int:
    """Tokens beyond the last piece that is read."""
    return sum(map(len, _pieces(tokenizer, text, weighted)[MAX_PIECES:]))


def _tokenizers(pipeline: Any) -> list[Any]:
    names = ("tokenizer", "tokenizer_2", "tokenizer_3", "prior_tokenizer")
    found = [getattr(pipeline, name, None) for name in names]
    return [one for one in found if callable(one) and hasattr(one, "model_max_length")]


def _limit(pipeline: Any, tokenizer: Any) -> int:
    """Tokens of a prompt, without those around it, that a pipeline reads through a tokenizer."""
    around = len(tokenizer("", add_special_tokens=True)["input_ids"])
    if tokenizer.bos_token_id is not None and tokenizer.model_max_length == 77:
        return int(tokenizer.model_max_length) - around
    if "Kandinsky3" in type(pipeline).__name__:
        return T5_TOKENS - around
    own = inspect.signature(pipeline.__call__).parameters.get("max_sequence_length")
    if own is not None and isinstance(own.default, int):
        return own.default - around
    return int(min(tokenizer.model_max_length, 2**31)) - around
