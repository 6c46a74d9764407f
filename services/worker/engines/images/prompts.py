"""Prompts longer than a text encoder reads: in pieces where that is exact, else what is cut is counted.

CLIP reads 77 tokens: a beginning, 75, an end. The pipelines of SD1.5 and SDXL cut off the rest. Here such a
prompt becomes pieces of 75 tokens, each encoded by itself as the pipelines do it, and laid end to end; the
negative prompt gets as many pieces. The pooled embedding of SDXL is that of the first piece. Prompts that fit
go the pipelines' own way. Other pipelines cut: how many tokens no encoder has seen is told.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline")
XL_PIPELINES = tuple(name.replace("Diffusion", "DiffusionXL") for name in PIPELINES)
TEXTS = ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2")
T5_TOKENS = 128
"""What Kandinsky 3 reads, whatever its tokenizer says."""
MAX_PIECES = 64
"""Of one prompt: 4,800 tokens. What is longer is cut, and told."""


def _is_xl(pipeline: Any) -> bool:
    return type(pipeline).__name__ in XL_PIPELINES


def _encoders(pipeline: Any) -> list[tuple[Any, Any]]:
    """Tokenizers with their text encoders, in the pipeline's order."""
    names = [("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")]
    pairs = [tuple(getattr(pipeline, name, None) for name in pair) for pair in names]
    return [
        (tokenizer, encoder) for tokenizer, encoder in pairs if tokenizer is not None and encoder is not None
    ]


def pieces_of(pipeline: Any, texts: Sequence[str | None]) -> int:
    """How many pieces these texts need together; 1 where they fit, or where the pipeline takes no pieces."""
    if type(pipeline).__name__ not in PIPELINES + XL_PIPELINES:
        return 1
    most = 1
    for tokenizer, _ in _encoders(pipeline):
        room = tokenizer.model_max_length - 2
        for text in texts:
            if text:
                most = max(most, -(-len(_ids(pipeline, tokenizer, text)) // room))
    return min(most, MAX_PIECES)


def _ids(pipeline: Any, tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text without beginning and end; textual inversions stand for all their vectors."""
    found: list[int] = tokenizer(pipeline.maybe_convert_prompt(text, tokenizer), add_special_tokens=False)[
        "input_ids"
    ]
    return found


def in_pieces(pipeline: Any, given: dict[str, Any], pieces: int) -> dict[str, Any]:
    """The arguments of a call with embeddings in place of the prompts. pieces: of `pieces_of`.

    Embeddings are [prompts, 77 x pieces, width].
    """
    kept = {name: value for name, value in given.items() if name not in (*TEXTS, "clip_skip")}
    prompts = _as_list(given["prompt"], 1)
    negative = given.get("negative_prompt")
    skip = given.get("clip_skip")
    if not _is_xl(pipeline):
        ((tokenizer, encoder),) = _encoders(pipeline)
        kept["prompt_embeds"] = _encoded(pipeline, tokenizer, encoder, prompts, pieces, skip)
        texts = _as_list(negative or "", len(prompts))
        kept["negative_prompt_embeds"] = _encoded(pipeline, tokenizer, encoder, texts, pieces, None)
        return kept
    second = _as_list(given.get("prompt_2") or prompts, len(prompts))
    kept |= _encoded_xl(pipeline, [prompts, second], pieces, skip, "")
    if negative is None and pipeline.config.force_zeros_for_empty_prompt:
        zeros = {
            f"negative_{name}": torch.zeros_like(kept[name])
            for name in ("prompt_embeds", "pooled_prompt_embeds")
        }
        return kept | zeros
    texts = _as_list(negative or "", len(prompts))
    other = _as_list(given.get("negative_prompt_2") or texts, len(prompts))
    return kept | _encoded_xl(pipeline, [texts, other], pieces, None, "negative_")


def _as_list(text: str | list[str], count: int) -> list[str]:
    return [text] * count if isinstance(text, str) else list(text)


def _rows(pipeline: Any, tokenizer: Any, text: str, pieces: int) -> torch.Tensor:
    """The tokens of a text as [pieces, 77]; each row has its beginning and end, and is filled up."""
    room = tokenizer.model_max_length - 2
    ids = _ids(pipeline, tokenizer, text)
    rows = []
    for at in range(0, pieces * room, room):
        row = [tokenizer.bos_token_id, *ids[at : at + room], tokenizer.eos_token_id]
        rows.append(row + [tokenizer.pad_token_id] * (room + 2 - len(row)))
    return torch.tensor(rows)


def _hidden(pipeline: Any, tokenizer: Any, encoder: Any, texts: Sequence[str], pieces: int) -> Any:
    """What the encoder says of the pieces of all texts, one after the other."""
    rows = torch.cat([_rows(pipeline, tokenizer, text, pieces) for text in texts]).to(encoder.device)
    uses_mask = getattr(encoder.config, "use_attention_mask", False)
    mask = (rows != tokenizer.pad_token_id).long() if uses_mask else None
    with torch.inference_mode():
        return encoder(rows, attention_mask=mask, output_hidden_states=True)


def _joined(hidden: torch.Tensor, texts: int) -> torch.Tensor:
    """[texts x pieces, 77, width] to [texts, pieces x 77, width]."""
    return hidden.reshape(texts, -1, hidden.shape[-1])


def _encoded(
    pipeline: Any, tokenizer: Any, encoder: Any, texts: Sequence[str], pieces: int, skip: int | None
) -> torch.Tensor:
    """Embeddings as SD1.5 has them: the last layer's, or `skip` layers before it, normed."""
    said = _hidden(pipeline, tokenizer, encoder, texts, pieces)
    if skip is None:
        return _joined(said[0], len(texts))
    with torch.inference_mode():
        # some versions of transformers have the layers in the encoder itself
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        normed = norm(said.hidden_states[-(skip + 1)])
    return _joined(normed, len(texts))


def _encoded_xl(
    pipeline: Any, texts: Sequence[Sequence[str]], pieces: int, skip: int | None, prefix: str
) -> dict[str, torch.Tensor]:
    """Embeddings as SDXL has them: of both encoders the last layer but one; of the second the pooled ones."""
    hidden: list[torch.Tensor] = []
    pooled: torch.Tensor | None = None
    encoders = _encoders(pipeline)
    for (tokenizer, encoder), own in zip(encoders, texts[-len(encoders) :], strict=True):
        said = _hidden(pipeline, tokenizer, encoder, own, pieces)
        if pooled is None and said[0].ndim == 2:
            pooled = said[0][::pieces]
        hidden.append(_joined(said.hidden_states[-2 if skip is None else -(skip + 2)], len(own)))
    assert pooled is not None, "the second text encoder of SDXL has a pooled output"
    return {f"{prefix}prompt_embeds": torch.cat(hidden, dim=-1), f"{prefix}pooled_prompt_embeds": pooled}


def cut_tokens(pipeline: Any, texts: Sequence[str | None]) -> int:
    """How many tokens of the prompts no encoder of the pipeline sees: 0 where all are seen.

    Where a pipeline has several encoders, a token counts that the one which reads most does not see.
    """
    if type(pipeline).__name__ in PIPELINES + XL_PIPELINES:
        seen = [
            (tokenizer, MAX_PIECES * (tokenizer.model_max_length - 2)) for tokenizer, _ in _encoders(pipeline)
        ]
    else:
        seen = [(one, _limit(pipeline, one)) for one in _tokenizers(pipeline)]
    cut = 0
    for text in texts:
        over = [len(one(text, add_special_tokens=False)["input_ids"]) - most for one, most in seen if text]
        cut += max(min(over, default=0), 0)
    return cut


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
