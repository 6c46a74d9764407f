"""A job: one accepted request, and what it asks an engine to do."""

from hashlib import blake2b
from typing import Any, Literal

import msgspec

from stoker.schemas.batches import Segment
from stoker.schemas.catalog import Adapter, Spec
from stoker.schemas.drawing import Control, HiresFix, Variation
from stoker.schemas.formats import OutputFormat, PictureFormat
from stoker.schemas.openai import ChatMessage
from stoker.schemas.ranges import Amount, Count, Weight
from stoker.schemas.subjects import check_name


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the next token is chosen; None leaves the engine's own default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    logit_bias: dict[str, float] | None = None


class ChatInput(msgspec.Struct, frozen=True, tag="chat", tag_field="kind", omit_defaults=True):
    """Continue a conversation. `max_tokens` counts tokens of the answer. template: what its chat template is
    given besides (`enable_thinking`, `reasoning_effort`). effort: of which it has these, for servers without
    templates. logprobs: tell the chance of each token, and of so many that were likeliest in its place.
    """

    messages: tuple[ChatMessage, ...]
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    sampling: Sampling = Sampling()
    response_format: dict[str, Any] | None = None
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, Any] | None = None
    template: dict[str, Any] = {}
    parallel_tool_calls: bool | None = None
    logprobs: int | None = None
    effort: str = ""


class CompletionInput(msgspec.Struct, frozen=True, tag="completion", tag_field="kind", omit_defaults=True):
    """Continue a text. logprobs: as above. suffix: what is to come after the answer. tokens: the prompt as the
    model's own token ids, in place of the text.
    """

    prompt: str
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    sampling: Sampling = Sampling()
    logprobs: int | None = None
    suffix: str = ""
    tokens: tuple[int, ...] = ()


class EmbeddingInput(msgspec.Struct, frozen=True, tag="embedding", tag_field="kind", omit_defaults=True):
    """One vector for each text. tokens: texts as the model's own token ids, in place of `texts`."""

    texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...] = ()

    @property
    def inputs(self) -> list[str] | list[list[int]]:
        """What is to be embedded, in order."""
        return [list(one) for one in self.tokens] if self.tokens else list(self.texts)


class TokensInput(msgspec.Struct, frozen=True, tag="tokens", tag_field="kind", omit_defaults=True):
    """A text, or the prompt that a conversation becomes, as the model's tokens; or tokens as their text.

    One of text, messages and tokens. has_special: with the tokens that the model wants around a text.
    """

    text: str | None = None
    messages: tuple[ChatMessage, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    template: dict[str, Any] = {}
    tokens: tuple[int, ...] = ()
    has_special: bool = True


class RerankInput(msgspec.Struct, frozen=True, tag="rerank", tag_field="kind", omit_defaults=True):
    """How well each document answers a query."""

    query: str
    documents: tuple[str, ...]


class Attachment(msgspec.Struct, frozen=True, omit_defaults=True):
    """Bytes that come with an input: here, in the object store under a name, or a client's file."""

    content: bytes = b""
    blob: str = ""
    segments: tuple[Segment, ...] = ()


DEFAULT_QUALITY = 92
"""Of a JPEG or WebP: what image tools take, too."""


class ImageInput(msgspec.Struct, frozen=True, tag="image", tag_field="kind", omit_defaults=True):
    """Draw `n` pictures; picture i uses seed + i. None leaves the model's default.

    previews: how many intermediate pictures to send while drawing (0 to 3 through the OpenAI API).
    files: pictures to start from, by the pipeline's parameter (image, mask_image).
    parameters: more of the pipeline's own parameters. loras: laid over the model's for this job.
    has_latents: give the final latents too, pooled to [1, 4, 8, 8] float16.
    quality: of a JPEG or WebP, 0 to 100. draws_transparent: where a picture comes without a mask, its
    transparent part is what is to be drawn. fields: what the request calls its files, where not as here.
    sampler: of schemas/samplers.py, or a scheduler class of diffusers; "": the model's.
    output_format: None is PNG, or MP4 of a video. fps: of a video, where the model's own is not wanted.
    prompt_weights, clip_skip, tiling: as in schemas.drawing.DrawingFields. With a variation all pictures have
    the seed, and its own seed counts up. inverts_mask: black is drawn, not white. fills_mask: what is to be
    drawn is blurred over from around it first.
    """

    prompt: str
    negative_prompt: str | None = None
    n: int = 1
    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    previews: int = 0
    files: dict[str, Attachment] = {}
    parameters: dict[str, Any] = {}
    loras: tuple[Adapter, ...] = ()
    has_latents: bool = False
    output_format: OutputFormat | None = None
    quality: int = DEFAULT_QUALITY
    draws_transparent: bool = False
    fields: dict[str, str] = {}
    sampler: str = ""
    fps: float | None = None
    prompt_weights: bool = False
    clip_skip: int | None = None
    tiling: bool = False
    hires: HiresFix | None = None
    variation: Variation | None = None
    inverts_mask: bool = False
    fills_mask: bool = False
    control: Control | None = None

    def seed_of(self, seed: int, index: int) -> int:
        """The seed of picture `index`. seed: of the job."""
        return seed if self.variation is not None else picture_seed(seed, index)

    def name_of(self, file: str) -> str:
        """What the request calls one of the files."""
        return self.fields.get(file, file)


class UpscaleInput(msgspec.Struct, frozen=True, tag="upscale", tag_field="kind", omit_defaults=True):
    """Enlarge a picture `magnitude` times over by the model's own factor.

    quality: of a JPEG or WebP, 0 to 100.
    """

    files: dict[str, Attachment]
    magnitude: int = 2
    output_format: PictureFormat = "png"
    quality: int = DEFAULT_QUALITY


class TranscriptionInput(
    msgspec.Struct, frozen=True, tag="transcription", tag_field="kind", omit_defaults=True
):
    """Write down what is said in a sound file (`audio`), or say it in English (`translate`).

    language: ISO 639-1; "" lets the model tell. prompt: text that came before, for style and names.
    temperature: 0 begins with the likeliest words, and takes less likely ones where those make no text.
    file_bytes: of the file, wherever it lies.
    """

    files: dict[str, Attachment]
    task: Literal["transcribe", "translate"] = "transcribe"
    language: str = ""
    prompt: str = ""
    temperature: float = 0.0
    has_words: bool = False
    file_bytes: int = 0


class LoadInput(msgspec.Struct, frozen=True, tag="load", tag_field="kind"):
    """Bring the model into memory on some worker, in turn with its other jobs: a mode switch."""


class CallInput(msgspec.Struct, frozen=True, tag="call", tag_field="kind", omit_defaults=True):
    """Call a function with these arguments."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}


FILE_FIELDS = ("url", "ref")
"""The fields of a payload that may name a file: a client's by its id, or one of another job by its URL."""


class FunctionInput(msgspec.Struct, frozen=True, tag="function", tag_field="kind", omit_defaults=True):
    """Call a user's function. models: parameter → key of the model that it is given.

    files: that the payload names, by what it says: a file's id, or the URL of another job's file.
    """

    function: str
    payload: dict[str, Any]
    models: dict[str, str] = {}
    files: dict[str, Attachment] = {}


class StoredInput(msgspec.Struct, frozen=True, tag="stored", tag_field="kind", omit_defaults=True):
    """An input that is too large to travel with its job: it lies in a blob, as JSON.

    units, is_repeatable, begins, models: what must be known of it without reading it.
    """

    blob: str
    units: Amount = 1.0
    is_repeatable: bool = False
    begins: str = ""
    models: tuple[str, ...] = ()


JobInput = (
    ChatInput
    | CompletionInput
    | EmbeddingInput
    | ImageInput
    | UpscaleInput
    | TranscriptionInput
    | TokensInput
    | RerankInput
    | LoadInput
    | CallInput
    | FunctionInput
    | StoredInput
)

DEFAULT_ADMISSION_TIMEOUT_S = 900.0
DEFAULT_RUN_TIMEOUT_S = 600.0
SOUND_BYTES_PER_S = 16_000
"""Of a file whose length is not known: between a compressed one and a plain WAV."""
Priority = int
"""Higher runs first. -10 to 10; 0 unless asked for."""


class Job(msgspec.Struct, frozen=True, omit_defaults=True):
    """One accepted request, as it lies in the stream STOKER_JOBS.

    gateway: who accepted it, and where its events go.
    created_at: seconds since 1970.
    seed: always set at acceptance, so that a second attempt makes the same thing.
    wants_events: whether deltas and progress are published while it runs; somebody who starts to watch
        later switches it on at the worker.
    spec: the one it was accepted with, where the catalog may change before it runs (modes).
    fingerprint: hash of the request body; the same id with another fingerprint is a conflict.
    is_client_named: the client chose the id (PUT or Idempotency-Key), so the same id may arrive twice.
    deadline_s: seconds after created_at by which it must end.
    unserved_timeout_s: seconds for which it waits while nothing serves its model, where its client waits for
        its end; None: as long as for anything else.
    has_one_result: for early versions, to which only such jobs may be given.
    is_sealed: it is spoken of under its seal (services/bus/seals.py).
    weight: its tenant's, in the fair clock.
    parent: the job that has called it, "" where a client has; depth: how many have called each other.
    batches_text: its gateway takes its text in one message with that of other jobs; no other gateway wants it.
    """

    id: str
    model: str
    input: JobInput
    gateway: str
    created_at: float
    seed: int = 0
    adapter: str = ""
    priority: Priority = 0
    tenant: str = ""
    weight: Weight = 1.0
    wants_events: bool = False
    is_client_named: bool = False
    fingerprint: str = ""
    webhook: str = ""
    admission_timeout_s: float = DEFAULT_ADMISSION_TIMEOUT_S
    run_timeout_s: float = DEFAULT_RUN_TIMEOUT_S
    deadline_s: float | None = None
    unserved_timeout_s: float | None = None
    spec: Spec | None = None
    has_one_result: bool = False
    is_sealed: bool = False
    parent: str = ""
    depth: Count = 0
    batches_text: bool = False

    def __post_init__(self) -> None:
        """Its names become subjects: raises BadName, so that nobody can be sent a job whose names cannot."""
        for name in (self.id, self.model, self.gateway):
            check_name(name)


class JobHead(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of a job that cannot be read, what is needed to end it."""

    id: str
    model: str
    gateway: str
    created_at: float
    tenant: str = ""
    fingerprint: str = ""
    webhook: str = ""
    wants_events: bool = False
    is_client_named: bool = False
    has_one_result: bool = False
    is_sealed: bool = False

    def as_job(self) -> Job:
        """A job that asks for nothing."""
        return Job(input=LoadInput(), **{name: getattr(self, name) for name in self.__struct_fields__})


_deterministic = msgspec.msgpack.Encoder(order="deterministic").encode


def likeness(job: Job, spec: Spec) -> bytes:
    """What jobs have in common that may be drawn as one, hashed; unlike any other for what is drawn alone."""
    asked = job.input
    if not isinstance(asked, ImageInput) or asked.n > 1 or asked.files:
        return job.id.encode()
    alike = (job.model, spec, job.adapter, msgspec.structs.replace(asked, prompt="", previews=0))
    return blake2b(_deterministic(alike), digest_size=16).digest()


def picture_seed(seed: int, index: int) -> int:
    """Of the picture `index` of a job: one that can be asked for again."""
    return (seed + index) % 2**32


def work_units(job_input: JobInput) -> float:
    """How much work an input is, in the unit in which run times of its model are learned.

    Tokens for text, texts for embeddings, steps x pictures for images, seconds for sound as if each had
    SOUND_BYTES_PER_S; what is not stated counts as a typical request.
    """
    match job_input:
        case ChatInput() | CompletionInput():
            return float(min(job_input.max_tokens or 256, 256))
        case EmbeddingInput():
            return float(len(job_input.texts) or len(job_input.tokens))
        case RerankInput():
            return float(len(job_input.documents))
        case ImageInput():
            steps, hires = job_input.num_inference_steps or 20, job_input.hires
            second = (hires.steps or steps) * hires.strength * hires.scale**2 if hires is not None else 0.0
            return (steps + second) * job_input.n
        case StoredInput():
            return job_input.units
        case TranscriptionInput():
            return max(job_input.file_bytes / SOUND_BYTES_PER_S, 1.0)
        case UpscaleInput() | TokensInput() | LoadInput() | CallInput() | FunctionInput():
            return 1.0


def is_repeatable(job_input: JobInput) -> bool:
    """Whether doing it twice at a time does no harm: not what runs code of users."""
    if isinstance(job_input, StoredInput):
        return job_input.is_repeatable
    return not isinstance(job_input, CallInput | FunctionInput | LoadInput)


def models_together(job_input: JobInput) -> tuple[str, ...]:
    """The models that a call needs in memory at once, in order of their names; () where it is one, or none."""
    match job_input:
        case FunctionInput(models=given):
            found = tuple(sorted(set(given.values())))
        case StoredInput(models=found):
            pass
        case _:
            found = ()
    return found if len(found) > 1 else ()


def prefix_of(job_input: JobInput, chars: int) -> str:
    """The first characters of the first user message, or of the prompt; "" where it has no text."""
    match job_input:
        case ChatInput(messages=messages):
            first = next((message for message in messages if message.role == "user"), None)
            text = first.text() if first is not None else ""
        case CompletionInput(prompt=text) | StoredInput(begins=text):
            pass
        case _:
            text = ""
    return text[:chars]


Status = Literal["queued", "assigned", "running", "completed", "failed", "cancelled", "expired"]
