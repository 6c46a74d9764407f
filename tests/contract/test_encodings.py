"""What text encoders said is kept: on tiny random weights, and never for another prompt, LoRA or model."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stoker.schemas.catalog import Adapter
from stoker.schemas.jobs import ImageInput
from stoker.services.worker.engines.base import Cancellation, Images, ModelFiles, Request, Task
from stoker.services.worker.engines.images.diffusers import DiffusersEngine, create
from stoker.services.worker.engines.images.encodings import Encodings
from stoker.services.worker.engines.registry import CAPABILITIES
from tests.contract.test_diffusers_engine import Heard
from tests.fixtures import checkpoints
from tests.unit.worker.images.made import opened

TEXT_LAYER = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("encodings")
    checkpoints.sd15(root / "sd15", layers=3)
    checkpoints.lora(root / "unet.safetensors", 768)
    torch.manual_seed(5)
    parts = {"A": torch.randn(4, 768) / 20, "B": torch.randn(768, 4)}
    save_file(
        {f"{TEXT_LAYER}.lora_{name}.weight": one for name, one in parts.items()}, root / "text.safetensors"
    )
    for name in ("one", "two"):
        save_file({"emb_params": torch.randn(2, 768)}, root / f"{name}.safetensors")
    return root


@pytest.fixture
def engine(root: Path) -> DiffusersEngine:
    engine = create(CAPABILITIES["diffusers"])
    engine.load(ModelFiles("m", root / "sd15", {"self_test": False}))
    return engine


def draw(
    engine: DiffusersEngine,
    prompt: str = "a cat",
    loras: tuple[Adapter, ...] = (),
    model: str = "m",
    **given: Any,
) -> tuple[bytes, int, int]:
    """The picture, and how many prompts text encoders knew and read."""
    asked = ImageInput(prompt, width=64, height=64, num_inference_steps=2, **given)
    heard = Heard()
    made = asyncio.run(engine.run(model, Request("j", asked, 5, loras=loras), heard, Cancellation()))
    assert isinstance(made, Images)
    return opened(made.images[0]).tobytes(), *heard.prompts


def test_a_prompt_that_comes_again_is_not_read_again(engine: DiffusersEngine) -> None:
    first, *read = draw(engine)
    assert read == [0, 2], "the prompt, and the empty negative one"
    assert draw(engine) == (first, 2, 0)
    other, *read = draw(engine, "a dog")
    assert (other != first, read) == (True, [1, 1])
    assert draw(engine) == (first, 2, 0)


def test_a_lora_over_the_text_encoder_is_part_of_what_is_known(engine: DiffusersEngine, root: Path) -> None:
    def lora(name: str, strength: float) -> tuple[Adapter, ...]:
        return (Adapter(name, str(root / f"{name}.safetensors"), strength),)

    plain, *_ = draw(engine)
    strong, kept, read = draw(engine, loras=lora("text", 1.0))
    assert (kept, read) == (0, 2)
    weak, kept, read = draw(engine, loras=lora("text", 0.4))
    assert (kept, read) == (0, 2), "another strength is another encoder"
    assert len({plain, strong, weak}) == 3
    assert draw(engine, loras=lora("text", 1.0)) == (strong, 2, 0)
    assert draw(engine) == (plain, 2, 0)
    elsewhere, *known = draw(engine, loras=lora("unet", 1.0))
    assert (elsewhere != plain, known) == (True, [2, 0]), "it changes no text encoder"


def test_another_file_under_the_same_name_is_another_lora(
    engine: DiffusersEngine, root: Path, tmp_path: Path
) -> None:
    path = tmp_path / "style.safetensors"
    path.write_bytes((root / "text.safetensors").read_bytes())
    lora = (Adapter("style", str(path)),)
    before, *_ = draw(engine, loras=lora)
    save_file({f"{TEXT_LAYER}.lora_{name}.weight": torch.ones(shape) for name, shape in
               (("A", (4, 768)), ("B", (768, 4)))}, path)  # fmt: skip
    after, *known = draw(engine, loras=lora)
    assert (after != before, known) == (True, [0, 2])


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": "a (cat:1.5)", "prompt_weights": True},
        {"clip_skip": 2},
        {"negative_prompt": "a dog"},
        {"prompt": "a cat " * 60},
    ],
)
def test_what_is_kept_draws_what_is_read(engine: DiffusersEngine, root: Path, given: dict[str, Any]) -> None:
    fresh = create(CAPABILITIES["diffusers"])
    fresh.load(ModelFiles("m", root / "sd15", {"self_test": False}))
    expected, *_ = draw(fresh, **given)
    plain, *_ = draw(engine)
    first, *_ = draw(engine, **given)
    again, _, read = draw(engine, **given)
    assert (first, again, read) == (expected, expected, 0)
    assert plain != expected
    assert draw(engine) == (plain, 2, 0)


def test_weights_of_a_prompt_are_laid_over_what_is_kept(engine: DiffusersEngine) -> None:
    encoder = engine._loaded["m"].pipeline.text_encoder
    torch.nn.init.constant_(encoder.final_layer_norm.bias, 0.2)  # trained encoders have a mean
    pictures = [draw(engine, f"a (cat:{weight})", prompt_weights=True) for weight in (1.1, 1.2, 1.3)]
    assert len({picture for picture, *_ in pictures}) == 3
    assert [read for *_, read in pictures] == [2, 0, 0], "one reading for all weights"


def test_a_word_of_two_models_is_read_by_each(root: Path) -> None:
    engine = create(CAPABILITIES["diffusers"])
    for name in ("one", "two"):
        options = {"self_test": False, "embeddings": [{"path": f"{name}.safetensors", "token": "style"}]}
        engine.load(ModelFiles(name, root / "sd15", options))
    one, two = (draw(engine, "a style", model=name)[0] for name in ("one", "two"))
    assert one != two
    assert draw(engine, "a style", model="one") == (one, 2, 0)


def test_a_prompt_of_a_batch_is_the_one_of_before_to_the_last_bits(engine: DiffusersEngine) -> None:
    """A batch is a call of its own: what it says of a prompt may differ in the last bits, and is not mixed up."""
    alone, *_ = draw(engine)
    asked = [ImageInput(prompt, width=64, height=64, num_inference_steps=2) for prompt in ("a cat", "a dog")]
    tasks = [Task(Request(one.prompt, one, 5), Heard(), Cancellation()) for one in asked]
    for _ in range(2):
        made = asyncio.run(engine.run_together("m", tasks))
        assert all(isinstance(one, Images) for one in made)
    assert [task.emit.prompts for task in tasks] == [(2, 0), (0, 0)]  # type: ignore[attr-defined]  # of Heard
    assert draw(engine)[0] == alone


def test_what_is_kept_goes_with_its_model(engine: DiffusersEngine) -> None:
    draw(engine)
    assert engine._encodings.size_bytes
    engine.park("m")
    engine.unpark("m")
    assert draw(engine)[1:] == (2, 0)
    engine.unload("m")
    assert not engine._encodings.size_bytes


class Pipeline:
    """A text encoder, as a pipeline has it."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.components = {"text_encoder": checkpoints.clip_text(32, layers=4), "vae": checkpoints.vae()}
        self.encoder = self.components["text_encoder"]


def tokens(number: int, rows: int = 1) -> torch.Tensor:
    return torch.full((rows, 77), number)


def test_memory_is_bounded_and_the_least_recently_used_goes_first() -> None:
    pipeline, bytes_each = Pipeline(), 4 * (77 * 32 + 32)
    kept = Encodings(max_bytes=3 * bytes_each)
    kept.watch("m", pipeline, lambda _: ())
    with torch.inference_mode():
        for number in (1, 2, 3, 1, 4):
            pipeline.encoder(tokens(number))
            assert kept.size_bytes <= 3 * bytes_each
        kept.counted()
        for number in (4, 1, 3, 2):
            pipeline.encoder(tokens(number))
    assert kept.counted() == (3, 1), "2 was used least lately"


def test_layers_are_kept_when_they_are_asked_for_and_read_once_more_where_they_were_not() -> None:
    pipeline, kept = Pipeline(), Encodings()
    plain = Pipeline().encoder
    kept.watch("m", pipeline, lambda _: ())
    with torch.inference_mode():
        expected = plain(tokens(7), output_hidden_states=True)
        for layer in (-1, -2, -2):
            said = pipeline.encoder(tokens(7), output_hidden_states=True)
            assert torch.equal(said.hidden_states[layer], expected.hidden_states[layer])
            assert torch.equal(said[0], expected[0])
        assert len(said.hidden_states) == len(expected.hidden_states)
        assert all(map(torch.equal, said.hidden_states[1:], expected.hidden_states[1:]))
        said.hidden_states[0].zero_()
        again = pipeline.encoder(tokens(7), output_hidden_states=True)
        assert all(map(torch.equal, again.hidden_states, expected.hidden_states)), "copies"
    assert kept.counted() == (3, 1)


def test_a_call_that_is_given_more_than_a_text_is_not_kept() -> None:
    pipeline, kept = Pipeline(), Encodings()
    kept.watch("m", pipeline, lambda _: ())
    with torch.inference_mode():
        for _ in range(2):
            pipeline.encoder(tokens(1), attention_mask=torch.ones(1, 77))
        assert isinstance(pipeline.encoder(tokens(1), return_dict=False), tuple)
    assert (kept.counted(), kept.size_bytes) == ((0, 1), 0)
