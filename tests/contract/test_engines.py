"""Every engine passes the conformance tests, on the smallest real thing there is of it."""

import shutil
import string
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from stoker.schemas.jobs import (
    Attachment,
    CallInput,
    ChatInput,
    CompletionInput,
    FunctionInput,
    ImageInput,
    JobInput,
    Sampling,
    TranscriptionInput,
    UpscaleInput,
)
from stoker.schemas.openai import ChatMessage
from stoker.services.worker.engines.base import ModelFiles
from stoker.services.worker.engines.registry import HANDLERS_VARIABLE, VLLM_VARIABLE
from tests.conftest import DEMO, ROOT
from tests.contract.engine_conformance import EngineConformance
from tests.fixtures import checkpoints
from tests.fixtures.behaviours import BEHAVIOURS
from tests.fixtures.ollama_server import OllamaStub
from tests.fixtures.openai_server import OpenAIStub
from tests.fixtures.serving import serving
from tests.fixtures.tiny_llama import tiny_llama
from tests.fixtures.tiny_whisper import sound, tiny_whisper

VLLM = ROOT / ".venv-vllm" / "bin" / "vllm"
GREEDY = Sampling(temperature=0.0)


def chat(text: str, max_tokens: int) -> ChatInput:
    return ChatInput((ChatMessage("user", text),), max_tokens=max_tokens, sampling=GREEDY)


def picture(folder: Path, edge: int) -> bytes:
    from PIL import Image

    path = folder / f"{edge}.png"
    Image.linear_gradient("L").resize((edge, edge)).convert("RGB").save(path)
    return path.read_bytes()


class TestSynthetic(EngineConformance):
    engine_name = "synthetic"
    takes_weights = False

    def files(self, folder: Path) -> ModelFiles:
        return ModelFiles("m", folder, {"tokens": 4})

    def bad(self, folder: Path) -> ModelFiles:
        return ModelFiles("m", folder, {"load_s": "soon"})

    def quick(self) -> JobInput:
        return CompletionInput("x", max_tokens=4)

    def long(self) -> JobInput:
        return CompletionInput("x", max_tokens=50_000_000)


class TestLlamaCpp(EngineConformance):
    engine_name = "llamacpp"

    def files(self, folder: Path) -> ModelFiles:
        return ModelFiles("m", DEMO / "chat.gguf", {"n_ctx": 512})

    def bad(self, folder: Path) -> ModelFiles:
        path = folder / "torn.gguf"
        path.write_bytes((DEMO / "chat.gguf").read_bytes()[:1000])
        return ModelFiles("m", path, {})

    def quick(self) -> JobInput:
        return chat("What is NATS?", 8)

    def long(self) -> JobInput:
        never_ends = Sampling(temperature=1.0, logit_bias={"2": -100})
        return ChatInput((ChatMessage("user", "go on"),), max_tokens=100_000, sampling=never_ends)


class TestDiffusers(EngineConformance):
    engine_name = "diffusers"

    @pytest.fixture(autouse=True, scope="class")
    def weights(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        type(self).folder = checkpoints.sd15(tmp_path_factory.mktemp("weights") / "tiny")
        yield

    folder: ClassVar[Path]

    def files(self, folder: Path) -> ModelFiles:
        return ModelFiles("m", self.folder, {})

    def bad(self, folder: Path) -> ModelFiles:
        path = folder / "torn.safetensors"
        path.write_bytes(b"\x10" * 64)
        return ModelFiles("m", path, {})

    def quick(self) -> JobInput:
        return ImageInput("a cat", width=64, height=64, num_inference_steps=2)

    def long(self) -> JobInput:
        return ImageInput("a cat", width=64, height=64, num_inference_steps=150)


class TestSpandrel(EngineConformance):
    engine_name = "spandrel"

    @pytest.fixture(autouse=True)
    def pictures(self, tmp_path: Path) -> None:
        self.small, self.large = picture(tmp_path, 16), picture(tmp_path, 512)

    def files(self, folder: Path) -> ModelFiles:
        path = folder / "upscaler.pth"
        return ModelFiles("m", path if path.exists() else checkpoints.upscaler(path), {"tile": 64})

    def bad(self, folder: Path) -> ModelFiles:
        path = folder / "torn.safetensors"
        path.write_bytes(b"\x10" * 64)
        return ModelFiles("m", path, {})

    def quick(self) -> JobInput:
        return UpscaleInput({"image": Attachment(self.small)}, magnitude=1)

    def long(self) -> JobInput:
        return UpscaleInput({"image": Attachment(self.large)}, magnitude=3)


class TestWhisper(EngineConformance):
    engine_name = "whisper"

    @pytest.fixture(autouse=True, scope="class")
    def weights(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        type(self).folder = tiny_whisper(tmp_path_factory.mktemp("weights") / "tiny")
        yield

    folder: ClassVar[Path]

    def files(self, folder: Path) -> ModelFiles:
        return ModelFiles("m", self.folder, {"n_threads": 1})

    def bad(self, folder: Path) -> ModelFiles:
        path = folder / "torn"
        shutil.copytree(self.folder, path)
        weights = path / "model.bin"
        weights.write_bytes(weights.read_bytes()[:-1000])
        return ModelFiles("m", path, {})

    def quick(self) -> JobInput:
        return TranscriptionInput({"audio": Attachment(sound(2))})

    def long(self) -> JobInput:
        return TranscriptionInput({"audio": Attachment(sound(1200))})


class TestOllama(EngineConformance):
    engine_name = "ollama"

    @pytest.fixture(autouse=True)
    def server(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with serving(OllamaStub().app()) as url:
            monkeypatch.setenv("OLLAMA_HOST", url.removeprefix("http://"))
            yield

    def files(self, folder: Path) -> ModelFiles:
        return ModelFiles("m", Path("llama-3.1-3b"), {"num_ctx": 64})

    def bad(self, folder: Path) -> ModelFiles:
        return ModelFiles("m", Path("nobody-has-this"), {})

    def quick(self) -> JobInput:
        return chat("one two three", 8)

    def long(self) -> JobInput:
        return chat("word " * 500, 100_000)


class TestOpenAI(EngineConformance):
    engine_name = "openai"
    takes_weights = False

    @pytest.fixture(autouse=True)
    def server(self) -> Iterator[None]:
        with serving(OpenAIStub().app()) as url:
            self.url = url
            yield

    def files(self, folder: Path) -> ModelFiles:
        return ModelFiles("m", Path(f"{self.url}/v1"), {"model": "big", "continues": "vllm"})

    def bad(self, folder: Path) -> ModelFiles:
        return ModelFiles("m", Path("http://127.0.0.1:9/v1"), {})

    def quick(self) -> JobInput:
        return chat("one two three", 8)

    def long(self) -> JobInput:
        return chat("word " * 500, 100_000)


class TestCustom(EngineConformance):
    engine_name = "custom"
    takes_weights = False
    is_cancelled_between_steps = False

    @pytest.fixture(autouse=True)
    def allowed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(HANDLERS_VARIABLE, "textwrap:shorten")

    def files(self, folder: Path) -> ModelFiles:
        return ModelFiles("textwrap:shorten", folder, {})

    def bad(self, folder: Path) -> ModelFiles:
        return ModelFiles("os:system", folder, {})

    def quick(self) -> JobInput:
        return CallInput(("a longer text",), {"width": 9})

    def long(self) -> JobInput:
        return self.quick()


class TestFunction(EngineConformance):
    engine_name = "function"
    takes_weights = False
    is_cancelled_between_steps = False

    def files(self, folder: Path) -> ModelFiles:
        project = folder / "project"
        project.mkdir(exist_ok=True)
        (project / "app.py").write_text(BEHAVIOURS)
        (project / "pyproject.toml").write_text('[tool.stoker]\nmodules = ["app"]\n')
        return ModelFiles("echo", project, {"project": str(project)})

    def bad(self, folder: Path) -> ModelFiles:
        project = folder / "broken"
        project.mkdir(exist_ok=True)
        (project / "pyproject.toml").write_text('[tool.stoker]\nmodules = ["echo"]\n')
        (project / "echo.py").write_text("raise ImportError('echo needs what is not here')")
        return ModelFiles("echo", project, {"project": str(project)})

    def quick(self) -> JobInput:
        return FunctionInput("echo", {"text": "hello"})

    def long(self) -> JobInput:
        return self.quick()


@pytest.mark.slow
@pytest.mark.skipif(not VLLM.exists(), reason="needs .venv-vllm: make test-all makes it")
class TestVllm(EngineConformance):
    engine_name = "vllm"

    @pytest.fixture(autouse=True)
    def command(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(VLLM_VARIABLE, str(VLLM))

    def files(self, folder: Path) -> ModelFiles:
        path = folder / "tiny"
        arguments = ("--enforce-eager", "--max-model-len", "256")
        env = {"VLLM_CPU_KVCACHE_SPACE": "1"}
        return ModelFiles("m", path if path.exists() else tiny_llama(path), {}, args=arguments, env=env)

    def bad(self, folder: Path) -> ModelFiles:
        path = folder / "empty"
        path.mkdir(exist_ok=True)
        return ModelFiles("m", path, {})

    def quick(self) -> JobInput:
        """Letters only: its tokens are single bytes, and of random ones no text can be gone on with."""
        letters = {str(ord(letter) - ord("!") + 2): 100.0 for letter in string.ascii_letters}
        return CompletionInput("a b c", max_tokens=4, sampling=Sampling(temperature=0.0, logit_bias=letters))

    def long(self) -> JobInput:
        return CompletionInput("a b c", max_tokens=200, sampling=GREEDY)
