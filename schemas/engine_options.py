"""What may stand under `options` of a model, for each engine."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]
NoneOrText = str | None


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """Of every engine. needs_gpu: not to be loaded on a processor alone."""

    needs_gpu: bool = False


class LlamaCpp(Common, frozen=True, kw_only=True):
    """n_ctx: tokens of prompt and answer. n_gpu_layers: those that a GPU runs; -1 is all. n_threads: on the
    processor. max_tokens: of an answer, where a request says nothing. mmproj: what lets it see, beside the
    weights.
    """

    n_ctx: Annotated[int, Meta(ge=8)] | None = None
    n_gpu_layers: Annotated[int, Meta(ge=-1)] = -1
    n_threads: Positive | None = None
    max_tokens: Positive | None = None
    mmproj: NoneOrText = None


class Vllm(Common, frozen=True, kw_only=True):
    """What `vllm serve` takes stands in `args`.

    start_timeout_s: the longest wait until it answers.
    """

    start_timeout_s: Annotated[float, Meta(gt=0)] | None = None


class Ollama(Common, frozen=True, kw_only=True):
    """keep_alive: as Ollama has it. The others are Ollama's own options of a model."""

    keep_alive: int | str = -1
    num_ctx: Positive | None = None
    num_batch: Positive | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_thread: Positive | None = None
    num_keep: int | None = None
    num_predict: int | None = None
    seed: int | None = None
    use_mmap: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_last_n: int | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: tuple[str, ...] | None = None


class OpenAI(Common, frozen=True, kw_only=True):
    """A server of OpenAI's API. model: what it calls the model; else as here. api_key_env: the variable of the
    worker that holds its key. retries: of a request before its first word, where the server is busy. continues:
    how a message is gone on with that broke off; "": not at all. names: fields that it calls otherwise; "": it
    does not take them. body, headers: sent with every request.
    """

    model: str = ""
    api_key_env: str = ""
    retries: Annotated[int, Meta(ge=0, le=20)] = 2
    continues: Literal["", "vllm"] = ""
    names: dict[str, str] = {}
    body: dict[str, Any] = {}
    headers: dict[str, str] = {}


class Whisper(Common, frozen=True, kw_only=True):
    """See services/worker/engines/audio/whisper.py.

    device: as torch names it; else the GPU where there is one. compute_type: of the weights; default is as the
    file has it. n_threads: on the processor; 0 is half the cores. beam_size: texts that are followed at a time.
    max_audio_s: the longest sound.
    """

    device: str = ""
    compute_type: str = "default"
    n_threads: Annotated[int, Meta(ge=0)] = 0
    beam_size: Positive = 5
    max_audio_s: Annotated[float, Meta(gt=0)] = 7200.0


class Spandrel(Common, frozen=True, kw_only=True):
    """device: as torch names it; else the GPU where there is one. tile: edge of what is enlarged at once, in
    pixels.
    """

    device: str = ""
    tile: Positive | None = None


class Diffusers(Common, frozen=True, kw_only=True):
    """See services/worker/engines/images/diffusers.py.

    dtype: of the weights. device: as torch names it; else the GPU where there is one. attention_slicing: less
    memory, slower. xformers: its attention. compile: torch.compile of the UNet. scheduler: a sampler as A1111
    and ComfyUI call it, or a class of diffusers. config: folder of the pipeline, for a single file without one.
    vae: a file or folder in place of the checkpoint's own. prior: of Kandinsky 2.2. self_test: draw a picture
    at load. embeddings: files of textual inversions. embedding_dir: a folder of them. controlnets: folders by
    name. batch: like requests that run as one. default_size: as 512x512. png_prompt, png_parameters: whether
    pictures say how they were made.
    """

    dtype: Literal["fp16", "bf16", "fp32"] | None = None
    device: str = ""
    attention_slicing: bool | None = None
    xformers: bool | None = None
    compile: bool | None = None
    scheduler: NoneOrText = None
    config: NoneOrText = None
    vae: NoneOrText = None
    prior: NoneOrText = None
    self_test: bool = True
    embeddings: tuple[str | dict[str, str], ...] | None = None
    embedding_dir: NoneOrText = None
    controlnets: dict[str, str] | None = None
    batch: Positive | None = None
    default_size: Annotated[str, Meta(pattern=r"^\d+x\d+$")] | None = None
    png_prompt: bool = True
    png_parameters: bool = True


class Synthetic(Common, frozen=True, kw_only=True):
    """Of the engine for tests and load: seconds, bytes and counts.

    tokens: of an answer. burst: tokens that are handed over at a time. crash: end the process on a run. batch:
    like requests that run as one.
    """

    load_s: Seconds = 0.0
    memory_bytes: Annotated[int, Meta(ge=0)] = 0
    hang_s: Seconds = 0.0
    stubborn_s: Seconds = 0.0
    prefill_s: Seconds = 0.0
    tokens: Annotated[int, Meta(ge=0)] | None = None
    token_interval_s: Seconds = 0.0
    burst: Positive = 1
    step_s: Seconds = 0.0
    crash: bool = False
    batch: Positive | None = None


OPTIONS: dict[str, type[Common]] = {
    "llamacpp": LlamaCpp,
    "vllm": Vllm,
    "ollama": Ollama,
    "openai": OpenAI,
    "whisper": Whisper,
    "spandrel": Spandrel,
    "diffusers": Diffusers,
    "synthetic": Synthetic,
}
"""By the engine's name. Functions have none."""


def names_of(engine: str) -> tuple[str, ...]:
    """What may stand under `options`."""
    kind = OPTIONS.get(engine)
    return kind.__struct_fields__ if kind is not None else ()


def checked(engine: str, options: dict[str, Any]) -> None:
    """Raises msgspec.ValidationError for a value that an option may not have."""
    if (kind := OPTIONS.get(engine)) is not None:
        msgspec.convert(options, kind)
