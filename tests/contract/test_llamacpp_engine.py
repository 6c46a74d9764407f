"""llama.cpp on the demo model: LoRA adapters by request."""

from pathlib import Path
from typing import Any

import gguf
import httpx
import numpy as np
import pytest

from stoker.schemas.catalog import Adapter
from stoker.schemas.job_events import TextOutput
from stoker.schemas.jobs import ChatInput, EmbeddingInput, RerankInput, Sampling
from stoker.schemas.openai import ChatMessage
from stoker.schemas.workers import CapabilityCard
from stoker.services.worker.engines.base import Cancellation, EngineError, ModelFiles, Request
from stoker.services.worker.engines.registry import create
from tests.conftest import DEMO
from tests.contract.test_text_servers import Heard
from tests.fixtures.smollm2 import smollm2
from tests.fixtures.text_models import KNOWS_TOOLS, THINKS, remade

CHAT = DEMO / "chat.gguf"


def make_lora(path: Path) -> Path:
    """A random LoRA of rank 4 over one matrix of the demo model."""
    name = "blk.0.attn_q.weight"
    [width_in, width_out] = next(one.shape for one in gguf.GGUFReader(CHAT).tensors if one.name == name)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 4.0)
    rng = np.random.default_rng(0)
    writer.add_tensor(f"{name}.lora_a", rng.standard_normal((4, int(width_in))).astype(np.float32))
    writer.add_tensor(f"{name}.lora_b", rng.standard_normal((int(width_out), 4)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


async def test_an_adapter_changes_the_answers_that_ask_for_it_and_no_others(tmp_path: Path) -> None:
    lora = make_lora(tmp_path / "lora.gguf")
    engine = create("llamacpp")
    engine.load(ModelFiles("m", CHAT, {"n_ctx": 256}, (Adapter("drunk", str(lora)),)))
    asked = ChatInput(
        (ChatMessage("user", "What is NATS?"),), max_tokens=12, sampling=Sampling(temperature=0.0)
    )

    async def answer(adapter: str) -> str:
        request = Request(job="j", input=asked, seed=1, adapter=adapter)
        output = await engine.run("m", request, Heard(), Cancellation())
        assert isinstance(output, TextOutput)
        return output.text

    plain = await answer("")
    assert plain.startswith("NATS is the messaging server")
    assert await answer("drunk") != plain
    assert await answer("") == plain
    engine.unload("m")


def test_an_adapter_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_text("no")
    with pytest.raises(EngineError, match=r"llama\.cpp cannot load"):
        create("llamacpp").load(ModelFiles("m", CHAT, {}, (Adapter("no", str(tmp_path / "no.gguf")),)))


def loaded(memory_bytes: int = 0, path: Path | None = None, **options: int) -> tuple[Any, CapabilityCard]:
    engine: Any = create("llamacpp")
    engine.load(ModelFiles("m", path or smollm2(), options, memory_bytes=memory_bytes))
    return engine, engine.card("m")


def test_the_context_is_what_the_memory_holds_for_all_slots() -> None:
    engine, whole = loaded()
    assert whole.context_tokens == 8192 and whole.slots == 4  # what the file says
    assert engine.memory_bytes("m") > 4 * 8192 * 20_000 + whole.weights_bytes  # the KV cache is counted
    engine.unload("m")
    engine, less = loaded(400_000_000)
    assert 2048 < less.context_tokens < 4096 and engine.memory_bytes("m") <= 400_000_000
    engine.unload("m")
    engine, least = loaded(1_000_000)
    assert least.context_tokens == 2048
    engine.unload("m")
    engine, asked = loaded(1_000_000, n_ctx=4096)
    assert asked.context_tokens == 4096
    engine.unload("m")


def test_a_model_has_as_many_slots_as_its_spec_says() -> None:
    engine: Any = create("llamacpp")
    engine.load(ModelFiles("m", CHAT, {"n_ctx": 256}, slots=6))
    assert engine.card("m").slots == 6
    assert engine._models["m"].ask("GET", "/props")["total_slots"] == 6, "llama.cpp has them"
    engine.unload("m")


def test_a_card_says_what_the_file_and_its_template_can_do(tmp_path: Path) -> None:
    engine, card = loaded(n_ctx=256, max_tokens=64)
    assert (card.family, card.quantisation, card.answer_tokens) == ("llama", "Q4_1", 64)
    assert 134e6 < card.parameters < 135e6 and card.abilities == ("system",)
    engine.unload("m")
    engine, card = loaded(path=remade(tmp_path / "tool.gguf", template=KNOWS_TOOLS))
    assert "tools" in card.abilities
    engine.unload("m")
    engine, card = loaded(path=remade(tmp_path / "think.gguf", template=THINKS, pooling=3))
    assert "thinking" in card.abilities and card.pooling == "last"
    engine.unload("m")


async def test_a_model_that_embeds_and_chats_is_in_memory_once(tmp_path: Path) -> None:
    engine, _ = loaded(path=remade(tmp_path / "first.gguf", pooling=2))
    asked = ChatInput((ChatMessage("user", "What is NATS?"),), max_tokens=8, sampling=Sampling(temperature=0.0))
    text = await engine.run("m", Request("j", asked, 1), Heard(), Cancellation())
    vectors = await engine.run("m", Request("j", EmbeddingInput(("a",)), 1), Heard(), Cancellation())
    assert text.text and len(vectors.vectors) == 1
    assert engine._embedders == {}
    engine.unload("m")


def test_its_own_port_takes_nobody_elses_questions() -> None:
    engine, _ = loaded(n_ctx=256)
    address = engine._models["m"].server.listening_address
    body = {"prompt": "x", "max_tokens": 1}
    assert httpx.post(f"{address}/v1/completions", json=body, trust_env=False).status_code == 401
    engine.unload("m")


async def test_a_model_that_does_not_rank_says_so() -> None:
    engine, _ = loaded(n_ctx=256)
    with pytest.raises(EngineError, match="no model that ranks") as refused:
        await engine.run("m", Request("j", RerankInput("a", ("b",)), 1), Heard(), Cancellation())
    assert refused.value.kind == "validation"
    engine.unload("m")
