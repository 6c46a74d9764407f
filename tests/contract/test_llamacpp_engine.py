"""llama.cpp on the demo model: LoRA adapters by request."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from schemas.catalog import Adapter
from schemas.job_events import TextOutput
from schemas.jobs import ChatInput, Sampling
from schemas.openai import ChatMessage
from services.worker.engines.base import Cancellation, EngineError, ModelFiles, Request
from services.worker.engines.registry import create
from tests.conftest import DEMO
from tests.contract.test_text_servers import Heard

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
