"""One model in llama.cpp: the server object of xllamacpp, and what its file says of it.

The object has methods for what is asked most. For the rest (tokens, what its chat template can do) it listens
on a port of its own on loopback, which takes a secret that this process alone knows.

Its context is what the file says (8192 tokens at most, unless the option `n_ctx` says otherwise), and less
where the memory that the model may take does not hold so many tokens of all its slots.
"""

import secrets
from typing import Any

import httpx
import xllamacpp

from stoker.schemas.workers import CapabilityCard
from stoker.services.process.http_clients import client
from stoker.services.process.machine import Machine
from stoker.services.worker.engines.base import EngineError, ModelFiles
from stoker.services.worker.engines.text.gguf_header import BadGguf, Scalar, read_header

Answer = dict[str, Any]

MOST_CONTEXT_TOKENS = 8192
"""Of a slot, where the option `n_ctx` says nothing."""
LEAST_CONTEXT_TOKENS = 2048
"""Of a slot, however little memory there is."""
DEFAULT_ANSWER_TOKENS = 2048
"""Of an answer where neither request nor option says; a small model may repeat itself for ever."""
POOLINGS = ("none", "mean", "cls", "last", "rank")
"""As GGUF files count them."""
ASK_TIMEOUT_S = 60.0
KV_BYTES = 2
"""Of a number in the KV cache: float16."""
WORK_SHARE = 1.1
"""What computing takes besides weights and KV cache, as a factor."""
ABILITIES = {
    "supports_system_role": "system",
    "supports_tools": "tools",
    "supports_parallel_tool_calls": "parallel_tools",
}
"""What llama.cpp finds out of a chat template, and our words."""


class LlamaServer:
    """A loaded model. is_embedder: it is for embeddings only, of a model that another server holds already."""

    def __init__(self, files: ModelFiles, slots: int, *, is_embedder: bool = False) -> None:
        self.files = files
        self.header = header_of(files)
        self.pooling = self._pooling()
        self.is_embedding = is_embedder or self.pooling not in ("", "none")
        self.slots = 1 if is_embedder else slots
        self.context_tokens = self._context_tokens()
        self._secret = secrets.token_hex(16)
        self._client: httpx.Client | None = None
        try:
            self.server = xllamacpp.Server(self._parameters())
            self._settle()
        except (RuntimeError, ValueError) as error:
            raise EngineError(
                f"llama.cpp cannot load {files.path.name}: {error}; the file may be truncated or of a "
                "kind that this llama.cpp does not know",
                "load_failed",
            ) from error

    def _parameters(self) -> Any:
        options = self.files.options
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(self.files.path)
        parameters.n_parallel = self.slots
        parameters.n_ctx = self.context_tokens * self.slots
        parameters.cpuparams.n_threads = int(options.get("n_threads", max(Machine().processors() // 2, 1)))
        parameters.n_gpu_layers = int(options.get("n_gpu_layers", -1))
        parameters.verbosity = 0
        parameters.warmup = False
        parameters.fit_params = False
        parameters.api_keys = [self._secret]
        if self.files.adapters:
            parameters.lora_adapters = [_lora(adapter.url) for adapter in self.files.adapters]
            parameters.lora_init_without_apply = True  # a request says which
        if (projector := options.get("mmproj")) is not None:
            parameters.mmproj.path = str(self.files.path.parent / str(projector))
        if self.is_embedding:
            parameters.embedding = True
            parameters.n_batch = parameters.n_ubatch = self.context_tokens  # a text has to fit in one
            if self.pooling in ("", "none"):
                parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
            elif self.pooling == "rank":
                parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
        return parameters

    def _settle(self) -> None:
        """One token through a new server: one that is freed before its thread has begun hangs for ever."""
        if self.pooling == "rank":
            self.server.handle_rerank({"query": "a", "documents": ["a"]})
        elif self.is_embedding:
            self.server.handle_embeddings({"input": ["a"]})
        else:
            self.server.handle_completions({"prompt": "a", "n_predict": 1}, lambda _: False)

    # What the file says ---------------------------------------------------------------------------

    def _number(self, key: str) -> int | None:
        """A number of the file's own architecture in its header."""
        value = self.header.get(f"{self.header.get('general.architecture')}.{key}")
        return value if isinstance(value, int) else None

    def _pooling(self) -> str:
        """ "": the file says nothing."""
        number = self._number("pooling_type")
        return POOLINGS[number] if number is not None and 0 <= number < len(POOLINGS) else ""

    @property
    def template(self) -> str:
        return str(self.header.get("tokenizer.chat_template", ""))

    @property
    def answer_tokens(self) -> int:
        """Of an answer, where the request says nothing."""
        return int(self.files.options.get("max_tokens", DEFAULT_ANSWER_TOKENS))

    def _kv_token_bytes(self) -> int:
        """Of the KV cache for one token."""
        layers, heads = self._number("block_count") or 0, self._number("attention.head_count") or 1
        wide = (self._number("embedding_length") or 0) // heads
        key, value = (
            self._number("attention.key_length") or wide,
            self._number("attention.value_length") or wide,
        )
        return layers * (self._number("attention.head_count_kv") or heads) * (key + value) * KV_BYTES

    def _context_tokens(self) -> int:
        """Tokens of prompt and answer together."""
        asked = self.files.options.get("n_ctx")
        if asked is not None:
            return int(asked)
        most = min(self._number("context_length") or MOST_CONTEXT_TOKENS, MOST_CONTEXT_TOKENS)
        token_bytes = self._kv_token_bytes() * self.slots
        if not self.files.memory_bytes or not token_bytes:
            return most
        room = self.files.memory_bytes / WORK_SHARE - self.weights_bytes
        fitting = int(room // token_bytes) // 256 * 256
        return max(min(most, fitting), min(most, LEAST_CONTEXT_TOKENS))

    @property
    def weights_bytes(self) -> int:
        return self.files.path.stat().st_size

    def memory_bytes(self) -> int:
        """Weights, KV cache of all slots and what computing takes."""
        kept = self._kv_token_bytes() * self.context_tokens * self.slots
        return int((self.weights_bytes + kept) * WORK_SHARE)

    def card(self) -> CapabilityCard:
        """What the model can do, by its file and by what llama.cpp makes of its template."""
        shown = self.ask("GET", "/props")
        found = shown.get("chat_template_caps") or {}
        abilities = [ours for theirs, ours in ABILITIES.items() if found.get(theirs)] if self.template else []
        if "enable_thinking" in self.template or "<think>" in self.template:
            abilities.append("thinking")
        if (shown.get("modalities") or {}).get("vision"):
            abilities.append("pictures")
        [meta] = [one.get("meta") or {} for one in self.ask("GET", "/v1/models")["data"]]
        return CapabilityCard(
            context_tokens=self.context_tokens,
            answer_tokens=min(self.answer_tokens, self.context_tokens),
            embedding_tokens=self.context_tokens,
            pooling=self.pooling or "mean",
            family=str(self.header.get("general.architecture", "")),
            quantisation=str(shown.get("model_ftype", "")),
            parameters=int(meta.get("n_params", 0)),
            weights_bytes=self.weights_bytes,
            slots=self.slots,
            abilities=tuple(abilities),
        )

    # Its own port ---------------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: Answer | None = None) -> Answer:
        """What it answers. Raises EngineError."""
        if self._client is None:
            headers = {"Authorization": f"Bearer {self._secret}"}
            self._client = client(self.server.listening_address, headers=headers, timeout=ASK_TIMEOUT_S)
        try:
            answer = self._client.request(method, path, json=body)
            said: Answer = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise EngineError(f"llama.cpp: {error or type(error).__name__}", "retryable") from error
        if answer.status_code >= 400:
            message = (said.get("error") or {}).get("message", said)
            raise EngineError(f"llama.cpp: {message}", "validation")
        return said

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


def header_of(files: ModelFiles) -> dict[str, Scalar]:
    """Raises EngineError."""
    try:
        return read_header(files.path)
    except OSError as error:
        raise EngineError(f"{files.path}: {error.strerror}", "load_failed") from error
    except BadGguf as error:
        raise EngineError(f"{files.path.name}: {error}; the file may be truncated", "load_failed") from error


def _lora(path: str) -> Any:
    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path = path
    adapter.scale = 0.0  # off, unless a request says otherwise
    return adapter
