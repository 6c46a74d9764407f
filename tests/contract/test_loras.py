"""LoRAs of every kind on real pipelines: what they change, that nothing stays, and what is said of the rest."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoker.schemas.catalog import Adapter
from stoker.services.worker.engines.base import EngineError
from stoker.services.worker.engines.images.lora_files import read_lora
from stoker.services.worker.engines.images.lora_patches import Patch, Unfit
from stoker.services.worker.engines.images.loras import PipelineLoras
from tests.fixtures import checkpoints
from tests.fixtures.lora_files import (
    ATTENTION,
    DIM,
    RANK,
    WIDTH,
    convolution,
    dora,
    full,
    kohya,
    loha,
    lokr,
    pair,
    peft,
    processors,
    random,
    saved,
)

KEY, VALUE = f"{ATTENTION}.to_k", f"{ATTENTION}.to_v"
ENCODER = "text_model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("loras")
    checkpoints.sd15(found / "sd15")
    checkpoints.sdxl(found / "sdxl")
    for name, tensors in {
        "plain": (kohya(KEY), kohya(VALUE, seed=1)),
        "loha": (loha(KEY),),
        "lokr": (lokr(VALUE),),
        "dora": (dora(KEY),),
        "text": (kohya(KEY, seed=3), kohya(ENCODER, "lora_te", seed=4, out=DIM)),
        "wide": (kohya(KEY, out=99),),
        "zero": ({name: value * 0 for name, value in peft(KEY).items()},),
    }.items():
        saved(found / f"{name}.safetensors", *tensors)
    return found


def pipeline_of(folder: Path) -> Any:
    made = diffusers.DiffusionPipeline.from_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def sd15(root: Path) -> Any:
    return pipeline_of(root / "sd15")


@pytest.fixture
def loras(sd15: Any) -> Iterator[PipelineLoras]:
    found = PipelineLoras(sd15, DIM)
    yield found
    found.take_off()


def weights(pipeline: Any) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name in ("unet", "text_encoder")
        for key, value in getattr(pipeline, name).state_dict().items()
    }


def changed(pipeline: Any, before: dict[str, torch.Tensor]) -> set[str]:
    now = weights(pipeline)
    return {name for name, value in before.items() if not torch.equal(value, now[name])}


def use(root: Path, name: str, strength: float = 1.0) -> Adapter:
    return Adapter(name, str(root / f"{name}.safetensors"), strength)


# Kinds and names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tensors",
    [
        kohya(KEY),
        peft(KEY),
        peft(KEY, "base_model.model."),
        peft(KEY, ""),
        peft(KEY, "diffusion_model."),
        processors(KEY),
    ],
    ids=["kohya", "diffusers", "peft", "bare", "comfy", "processors"],
)
def test_every_naming_is_the_same_change(sd15: Any, tmp_path: Path, tensors: Any) -> None:
    found = read_lora(saved(tmp_path / "x.safetensors", tensors), sd15)
    [patch] = found.patches
    assert (patch.component, patch.module, found.strangers) == ("unet", KEY, ())
    down, up = pair()
    weight = sd15.unet.get_submodule(KEY).weight.detach()
    assert torch.allclose(patch.change(weight, 0.5), up @ down * (2.0 / RANK) * 0.5, atol=1e-5)


def test_a_change_is_what_diffusers_makes_of_it(root: Path, sd15: Any, loras: PipelineLoras) -> None:
    def drawn(pipeline: Any) -> Any:
        generator = torch.Generator("cpu").manual_seed(1)
        made = pipeline("a", num_inference_steps=2, width=64, height=64, generator=generator, output_type="np")
        return made.images

    loras.switch([use(root, "plain", 0.7)])
    other = pipeline_of(root / "sd15")
    other.load_lora_weights(str(root / "plain.safetensors"), adapter_name="x")
    other.set_adapters(["x"], [0.7])
    assert abs(drawn(sd15) - drawn(other)).max() < 0.002


def test_loha_lokr_and_full_changes(sd15: Any) -> None:
    weight = sd15.unet.get_submodule(KEY).weight.detach()

    def change(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        roles = {name.rpartition(".")[2].removeprefix("hada_"): value for name, value in tensors.items()}
        return Patch("unet", KEY, roles).change(weight, 1.0)

    made = loha(KEY)
    w1a, w1b, w2a, w2b = (value for name, value in made.items() if "hada" in name)
    assert torch.allclose(change(made), (w1a @ w1b) * (w2a @ w2b) * (1.0 / RANK), atol=1e-4)
    kronecker = lokr(KEY)
    w1, a, b, _ = kronecker.values()
    assert torch.allclose(change(kronecker), torch.kron(w1, a @ b), atol=1e-4)
    [difference] = full(KEY).values()
    assert torch.equal(change(full(KEY)), difference)


@pytest.mark.parametrize("shape", [(1, DIM), (WIDTH, 1), (WIDTH,)])
def test_a_magnitude_is_the_length_of_rows_or_columns(sd15: Any, shape: tuple[int, ...]) -> None:
    weight = sd15.unet.get_submodule(KEY).weight.detach()
    magnitude = random(*shape).abs() + 0.5
    down, up = pair()
    made = Patch("unet", KEY, {"up": up, "down": down, "magnitude": magnitude}).change(weight, 1.0) + weight
    over = 0 if shape == (1, DIM) else 1
    assert torch.allclose(made.norm(dim=over), magnitude.flatten(), rtol=1e-3)


def test_convolutions_and_their_cores(sd15: Any, tmp_path: Path) -> None:
    module = "down_blocks.0.resnets.0.conv1"
    weight = sd15.unet.get_submodule(module).weight.detach()
    out, channels = weight.shape[:2]
    [patch] = read_lora(saved(tmp_path / "x.safetensors", convolution(module, (channels, out))), sd15).patches
    assert patch.change(weight, 1.0).shape == weight.shape
    core = {"up": random(out, 2, 1, 1), "down": random(2, channels, 1, 1), "mid": random(2, 2, 3, 3)}
    made = Patch("unet", module, core).change(weight, 1.0)
    expected = torch.zeros_like(weight)
    for a in range(2):
        for b in range(2):
            outer = core["up"][:, a, 0, 0][:, None] * core["down"][b, :, 0, 0][None]
            expected += outer[:, :, None, None] * core["mid"][a, b]
    assert torch.allclose(made, expected, atol=1e-4)


def test_names_over_the_blocks_of_the_original_sdxl(root: Path, tmp_path: Path) -> None:
    pipeline = pipeline_of(root / "sdxl")
    module = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    width, dim = pipeline.unet.get_submodule(module).weight.shape
    sgm = kohya("input_blocks_3_1_transformer_blocks_0_attn2_to_k", out=width, dim=dim)
    own = kohya(module, out=width, dim=dim)
    second = kohya("text_model.encoder.layers.0.mlp.fc1", "lora_te2", out=1, dim=1)
    for tensors in (sgm, own):  # this one has one layer to a block, real ones have two
        found = read_lora(saved(tmp_path / "x.safetensors", tensors, second), pipeline)
        assert {(one.component, one.module) for one in found.patches} == {
            ("unet", module),
            ("text_encoder_2", "text_model.encoder.layers.0.mlp.fc1"),
        }


@pytest.mark.parametrize(
    ("original", "module"),
    [
        ("input_blocks_0_0", "conv_in"),
        ("out_2", "conv_out"),
        ("time_embed_0", "time_embedding.linear_1"),
        ("label_emb_0_2", "add_embedding.linear_2"),
        ("input_blocks_1_0_in_layers_2", "down_blocks.0.resnets.0.conv1"),
        ("input_blocks_2_0_op", "down_blocks.0.downsamplers.0.conv"),
        ("input_blocks_3_0_emb_layers_1", "down_blocks.1.resnets.0.time_emb_proj"),
        ("middle_block_0_out_layers_3", "mid_block.resnets.0.conv2"),
        (
            "middle_block_1_transformer_blocks_1_attn2_to_v",
            "mid_block.attentions.0.transformer_blocks.1.attn2.to_v",
        ),
        ("output_blocks_0_0_skip_connection", "up_blocks.0.resnets.0.conv_shortcut"),
        ("output_blocks_1_1_proj_in", "up_blocks.0.attentions.1.proj_in"),
    ],
)
def test_places_of_the_original_sdxl(root: Path, tmp_path: Path, original: str, module: str) -> None:
    pipeline = pipeline_of(root / "sdxl")
    found = read_lora(saved(tmp_path / "x.safetensors", kohya(original)), pipeline)
    assert [(one.component, one.module) for one in found.patches] == [("unet", module)], found.strangers


# Nothing stays ------------------------------------------------------------------------------------


def test_text_encoders_are_changed_too_and_all_is_put_back(root: Path, sd15: Any, loras: PipelineLoras) -> None:
    before = weights(sd15)
    assert loras.switch([use(root, "text")]) == ()
    touched = changed(sd15, before)
    assert {name.partition(".")[0] for name in touched} == {"unet", "text_encoder"} and len(touched) == 2
    loras.switch([])
    assert changed(sd15, before) == set()


NAMES = st.sampled_from(["plain", "loha", "lokr", "dora", "text", "wide", "zero", "gone"])
CHOICES = st.lists(
    st.tuples(NAMES, st.sampled_from([0.0, 0.5, 1.0, -1.0])), max_size=3, unique_by=lambda one: one[0]
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(CHOICES, min_size=1, max_size=6))
def test_whatever_came_before_a_run_has_the_weights_of_a_fresh_process(
    root: Path, sd15: Any, history: list[list[tuple[str, float]]]
) -> None:
    loras, fresh = PipelineLoras(sd15, DIM), PipelineLoras(sd15, DIM)
    before = weights(sd15)

    def lay(onto: PipelineLoras, chosen: list[tuple[str, float]]) -> dict[str, torch.Tensor] | None:
        try:
            onto.switch([use(root, name, strength) for name, strength in chosen])
        except EngineError:
            return None
        return weights(sd15)

    for chosen in history:
        after = lay(loras, chosen)
        if after is None:
            assert "gone" in {name for name, _ in chosen}
    loras.take_off()
    assert changed(sd15, before) == set()
    expected = lay(fresh, history[-1])
    fresh.take_off()
    if expected is not None:
        assert after is not None and all(torch.equal(after[name], expected[name]) for name in expected)
    assert changed(sd15, before) == set()


def test_a_change_that_fails_half_way_leaves_the_originals(
    root: Path, sd15: Any, loras: PipelineLoras, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = weights(sd15)
    loras.attach([use(root, "plain")])
    kept = loras._kept[str(root / "plain.safetensors")]
    broken = Patch("unet", VALUE, {"up": random(3, 2), "down": random(2, 5)})
    monkeypatch.setattr(type(kept.file), "patches", (kept.file.patches[0], broken), raising=False)
    with pytest.raises(EngineError, match="cannot be laid"):
        loras.switch([use(root, "plain")])
    assert changed(sd15, before) == set()


def test_another_file_under_the_same_name_is_another_lora(
    tmp_path: Path, sd15: Any, loras: PipelineLoras
) -> None:
    lora = Adapter("x", str(saved(tmp_path / "x.safetensors", kohya(KEY))))
    loras.switch([lora])
    first = sd15.unet.get_submodule(KEY).weight.detach().clone()
    replaced = saved(tmp_path / "y.safetensors", kohya(KEY, seed=9))
    replaced.replace(tmp_path / "x.safetensors")
    loras.switch([lora])
    assert not torch.equal(first, sd15.unet.get_submodule(KEY).weight)


# What is said -------------------------------------------------------------------------------------


def test_a_lora_of_another_width_is_left_out_in_one_line(root: Path, sd15: Any, loras: PipelineLoras) -> None:
    before = weights(sd15)
    [said] = loras.switch([use(root, "wide")])
    assert said == f"wide: wide.safetensors is for another model: its {KEY} is 99x768, the model's is 32x768"
    assert changed(sd15, before) == set()


def test_one_that_changes_nothing_is_told(root: Path, loras: PipelineLoras) -> None:
    [said] = loras.switch([use(root, "zero")])
    assert said == "zero: zero.safetensors changes nothing: its weights are zero"


def test_what_names_nothing_here_is_told_and_the_rest_is_laid(
    tmp_path: Path, sd15: Any, loras: PipelineLoras
) -> None:
    before = weights(sd15)
    mixed = saved(tmp_path / "m.safetensors", kohya(KEY), kohya("nowhere.to_k", seed=2))
    [said] = loras.switch([Adapter("m", str(mixed))])
    assert said.startswith(
        "m: 1 of 2 parts of m.safetensors name nothing of this model, such as lora_unet_nowhere_to_k"
    )
    assert len(changed(sd15, before)) == 1
    alone = saved(tmp_path / "n.safetensors", kohya("nowhere.to_k"))
    [said] = loras.switch([Adapter("n", str(alone))])
    assert "names nothing of this model" in said


def test_a_file_that_is_gone_or_broken_is_an_error_and_changes_nothing(
    root: Path, tmp_path: Path, sd15: Any, loras: PipelineLoras
) -> None:
    before = weights(sd15)
    loras.switch([use(root, "plain")])
    with pytest.raises(EngineError, match="gone"):
        loras.switch([use(root, "gone")])
    (tmp_path / "b.safetensors").write_bytes(b"<html>")
    [said] = loras.switch([Adapter("b", str(tmp_path / "b.safetensors"))])
    assert "b.safetensors" in said
    assert changed(sd15, before) == set()


@pytest.mark.parametrize(
    "roles", [{"up": random(WIDTH, 2)}, {"alpha": torch.tensor(1.0)}, {"w1_a": random(2, 2)}]
)
def test_a_part_that_lacks_its_half_does_not_fit(sd15: Any, roles: dict[str, torch.Tensor]) -> None:
    with pytest.raises(Unfit):
        Patch("unet", KEY, roles).change(sd15.unet.get_submodule(KEY).weight.detach(), 1.0)
