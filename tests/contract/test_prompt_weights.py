"""Weights in prompts and CLIP skip, on tiny random weights, against diffusers called directly."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from stoker.schemas.jobs import ImageInput
from stoker.services.worker.engines.base import Cancellation, EngineError, Images, ModelFiles, Request, Task
from stoker.services.worker.engines.images import prompts
from stoker.services.worker.engines.images.diffusers import DiffusersEngine, create
from stoker.services.worker.engines.images.layers import layers_skipped
from stoker.services.worker.engines.registry import CAPABILITIES
from tests.contract.test_diffusers_engine import Heard
from tests.fixtures import checkpoints
from tests.fixtures.threads import in_a_thread
from tests.unit.worker.images.made import opened

LAYERS = 4


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> DiffusersEngine:
    root = tmp_path_factory.mktemp("weights")
    checkpoints.sd15(root / "sd15", layers=LAYERS)
    checkpoints.sdxl(root / "sdxl", layers=LAYERS)
    checkpoints.kandinsky3(root / "kandinsky3")
    engine = loaded(root, "sd15", "sdxl", "kandinsky3")
    for name in ("sd15", "sdxl"):  # trained encoders have a mean; those of random weights have none
        torch.nn.init.constant_(engine._loaded[name].pipeline.text_encoder.final_layer_norm.bias, 0.2)
    return engine


def loaded(root: Path, *names: str) -> DiffusersEngine:
    engine = create(CAPABILITIES["diffusers"])
    for name in names:
        engine.load(ModelFiles(name, root / name, {}))
    return engine


def asked(prompt: str = "a cat", **options: Any) -> ImageInput:
    return ImageInput(prompt, **({"width": 64, "height": 64, "num_inference_steps": 2} | options))


def draw(engine: DiffusersEngine, model: str, prompt: str, **options: Any) -> Images:
    request = Request("j", asked(prompt, **options), 5, title=model)
    found = asyncio.run(engine.run(model, request, Heard(), Cancellation()))
    assert isinstance(found, Images)
    return found


def pixels(engine: DiffusersEngine, model: str, prompt: str, **options: Any) -> bytes:
    return opened(draw(engine, model, prompt, **options).images[0]).tobytes()


def by_diffusers(engine: DiffusersEngine, model: str, **given: Any) -> bytes:
    """What the pipeline draws when it is called directly."""
    generator = torch.Generator("cpu").manual_seed(5)
    size = {"width": 64, "height": 64, "num_inference_steps": 2}
    pipeline = engine._loaded[model].pipeline
    return in_a_thread(lambda: bytes(pipeline(generator=generator, **size, **given).images[0].tobytes()))


def embedded(engine: DiffusersEngine, model: str, prompt: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What the pipeline itself makes of a prompt, and SDXL's pooled embedding."""
    pipeline = engine._loaded[model].pipeline
    device = torch.device("cpu")
    with torch.inference_mode():
        if model == "sdxl":
            made = pipeline.encode_prompt(prompt, None, device, 1, True)
            return made[0], made[2]
        return pipeline.encode_prompt(prompt, device, 1, True)[0], None


def reweighted(hidden: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """As A1111's EmphasisOriginal does it."""
    was = hidden.mean()
    made = hidden * weights.reshape(1, -1, 1)
    return made * (was / made.mean())


# Weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_a_weight_multiplies_the_embedding_of_its_tokens_and_the_mean_is_kept(
    engine: DiffusersEngine, model: str
) -> None:
    pipeline = engine._loaded[model].pipeline
    read = prompts.readable(pipeline, {"prompt": "a (b:1.5) [c]", "negative_prompt": "d"}, weighted=True)
    hidden, pooled = embedded(engine, model, "a b c")
    weights = torch.ones(77)
    weights[2], weights[3] = 1.5, 1 / 1.1
    parts = [hidden[..., :768], hidden[..., 768:]] if model == "sdxl" else [hidden]
    wanted = torch.cat([reweighted(part, weights) for part in parts], dim=-1)
    assert torch.allclose(read["prompt_embeds"], wanted, atol=1e-5)
    assert not torch.allclose(wanted, hidden, atol=1e-3)
    assert torch.equal(read["negative_prompt_embeds"], embedded(engine, model, "d")[0])
    if pooled is not None:
        assert torch.equal(read["pooled_prompt_embeds"], pooled)


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_weights_change_the_picture_and_leave_nothing_behind(engine: DiffusersEngine, model: str) -> None:
    plain = pixels(engine, model, "a cat")
    weighted = pixels(engine, model, "a (cat:1.9)", prompt_weights=True)
    assert weighted != plain
    assert pixels(engine, model, "a cat") == plain == by_diffusers(engine, model, prompt="a cat")
    assert pixels(engine, model, "a cat", prompt_weights=True) == plain
    assert pixels(engine, model, "a (cat:1.0)", prompt_weights=True) == plain
    assert pixels(engine, model, "a (cat:1.9)", prompt_weights=True) == weighted
    assert pixels(engine, model, "a (cat:1.9)") not in (plain, weighted)  # text, where nobody asks for weights


def test_a_negative_prompt_has_weights_too(engine: DiffusersEngine) -> None:
    options: dict[str, Any] = {"guidance_scale": 5.0, "prompt_weights": True}
    drawn = [pixels(engine, "sd15", "a", negative_prompt=text, **options) for text in ("b", "(b:1.9)", "(b)")]
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_a_break_begins_another_piece(engine: DiffusersEngine, model: str) -> None:
    pipeline = engine._loaded[model].pipeline
    read = prompts.readable(pipeline, {"prompt": "a b BREAK c"}, weighted=True)
    wanted = torch.cat([embedded(engine, model, text)[0] for text in ("a b", "c")], dim=1)
    assert torch.allclose(read["prompt_embeds"], wanted, atol=1e-5)
    assert read["negative_prompt_embeds"].shape == wanted.shape
    assert pixels(engine, model, "a b BREAK c", prompt_weights=True) != pixels(engine, model, "a b c")


@pytest.mark.slow
def test_a_long_prompt_with_weights_is_read_whole_and_what_is_over_is_counted(engine: DiffusersEngine) -> None:
    pipeline = engine._loaded["sd15"].pipeline
    long = " ".join("abcdefghij"[index % 10] for index in range(100)) + " (k:1.4)"
    assert prompts.pieces_of(pipeline, [long], True) == 2
    assert "cut_prompt_tokens" not in draw(engine, "sd15", long, prompt_weights=True).details
    pieces = " BREAK ".join(["a b"] * (prompts.MAX_PIECES + 2))
    assert prompts.cut_tokens(pipeline, [pieces], True) == 4
    assert prompts.readable(pipeline, {"prompt": pieces}, True)["prompt_embeds"].shape[1] == 77 * 64


def test_prompts_that_are_drawn_together_are_what_they_are_alone(engine: DiffusersEngine) -> None:
    texts = ("a cat", "a (cat:1.9)", "a BREAK (b)", "b")
    tasks = [
        Task(Request(f"j{i}", asked(text, prompt_weights=True), 5), Heard(), Cancellation())
        for i, text in enumerate(texts)
    ]
    for text, together in zip(texts, asyncio.run(engine.run_together("sd15", tasks)), strict=True):
        assert isinstance(together, Images)
        pair = (opened(together.images[0]).tobytes(), pixels(engine, "sd15", text, prompt_weights=True))
        assert max(abs(a - b) for a, b in zip(*pair, strict=True)) <= 2


def test_what_takes_no_weights_draws_the_text_and_says_so(engine: DiffusersEngine) -> None:
    drawn = draw(engine, "kandinsky3", "a (cat:1.3) BREAK b", prompt_weights=True)
    assert "takes no prompt weights: the text was drawn without them" in drawn.details["remark"]
    assert opened(drawn.images[0]).tobytes() == pixels(engine, "kandinsky3", "a cat   b")
    assert "remark" not in draw(engine, "kandinsky3", "a cat", prompt_weights=True).details
    assert "remark" not in draw(engine, "kandinsky3", "a (cat:1.3)").details


def test_syntax_that_is_not_known_is_told(engine: DiffusersEngine) -> None:
    told = draw(engine, "sd15", "a [b:c:0.5]", prompt_weights=True).details["remark"]
    assert told == "[from:to:when] and [a|b] in the prompt were drawn as text"


def test_a_weight_out_of_range_is_refused(engine: DiffusersEngine) -> None:
    with pytest.raises(EngineError, match="is 20 at most, not 900") as refused:
        draw(engine, "sd15", "(a:900)", prompt_weights=True)
    assert (refused.value.kind, refused.value.field) == ("validation", "prompt")
    assert pixels(engine, "sd15", "(a:0) b", prompt_weights=True) != pixels(engine, "sd15", "a b")


# CLIP skip ----------------------------------------------------------------------------------------


def layer_before(engine: DiffusersEngine) -> torch.Tensor:
    """What SD1.x's encoder says of a cat in its last layer but one, with the last layer's norm."""
    pipeline = engine._loaded["sd15"].pipeline
    ids = pipeline.tokenizer("a cat", padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.inference_mode():
        said = pipeline.text_encoder(ids, output_hidden_states=True)
        made: torch.Tensor = pipeline.text_encoder.final_layer_norm(said.hidden_states[-2])
    return made


@pytest.mark.parametrize(("model", "own"), [("sd15", 1), ("sdxl", 2)])
def test_layers_are_counted_from_the_end_as_a1111_does(engine: DiffusersEngine, model: str, own: int) -> None:
    plain = pixels(engine, model, "a cat")
    assert all(pixels(engine, model, "a cat", clip_skip=skip) == plain for skip in range(1, own + 1))
    drawn = draw(engine, model, "a cat", clip_skip=own + 1)
    skipped = (
        {"prompt": "a cat", "clip_skip": 1} if model == "sdxl" else {"prompt_embeds": layer_before(engine)}
    )
    assert opened(drawn.images[0]).tobytes() == by_diffusers(engine, model, **skipped) != plain
    assert f"Clip skip: {own + 1}" in opened(drawn.images[0]).info["parameters"]
    assert drawn.details["parameters"]["clip_skip"] == 1
    assert pixels(engine, model, "a cat") == plain


def test_a_skip_and_weights_go_together(engine: DiffusersEngine) -> None:
    weighted: dict[str, Any] = {"prompt": "a (cat:1.9)", "prompt_weights": True}
    drawn = {pixels(engine, "sd15", **weighted, clip_skip=skip) for skip in (1, 2, 3)}
    assert len(drawn) == 3


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
@pytest.mark.parametrize("skipped", [LAYERS, 100, -1, -99])
def test_more_layers_than_there_are_is_the_requests_fault(
    engine: DiffusersEngine, model: str, skipped: int
) -> None:
    with pytest.raises(EngineError, match=f"which can spare {LAYERS - 1}: lower it") as refused:
        draw(engine, model, "a", parameters={"clip_skip": skipped})
    assert (refused.value.kind, refused.value.field) == ("validation", "clip_skip")
    for most in (LAYERS - 1, 0):
        draw(engine, model, "a", parameters={"clip_skip": most})


def test_what_has_no_such_encoder_takes_no_skip(engine: DiffusersEngine) -> None:
    with pytest.raises(EngineError, match="takes no clip_skip") as refused:
        draw(engine, "kandinsky3", "a", clip_skip=3)
    assert refused.value.field == "clip_skip"
    assert layers_skipped(object(), None) is None
