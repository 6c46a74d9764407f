"""Textual inversions on tiny random weights: the files that people have, and what diffusers draws with them."""

import asyncio
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from stoker.schemas.jobs import ImageInput
from stoker.services.worker.engines.base import Cancellation, EngineError, Images, ModelFiles, Request
from stoker.services.worker.engines.images.diffusers import DiffusersEngine, create
from stoker.services.worker.engines.images.embeddings import MAX_FILES, load_embeddings
from stoker.services.worker.engines.registry import CAPABILITIES
from tests.contract.test_diffusers_engine import Heard
from tests.fixtures import checkpoints
from tests.fixtures.threads import in_a_thread
from tests.unit.worker.images.made import opened

torch.manual_seed(3)
ONE, THREE, WIDE = torch.randn(1, 768), torch.randn(3, 768), torch.randn(3, 1280)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("embeddings")
    checkpoints.sd15(root / "sd15")
    checkpoints.sdxl(root / "sdxl")
    save_file({"<toy>": ONE}, root / "toy.safetensors")
    save_file({"emb_params": THREE}, root / "Style.safetensors")
    save_file({"clip_l": THREE, "clip_g": WIDE}, root / "xl.safetensors")
    torch.save({"<toy>": ONE[0]}, root / "learned.bin")
    old = {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": {"*": THREE}, "name": "x", "step": 9}
    torch.save(old, root / "old.pt")
    older = old | {"string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(THREE)})}
    torch.save(older, root / "older.pt")
    return root


def loaded(root: Path, model: str = "sd15", **options: Any) -> DiffusersEngine:
    engine = create(CAPABILITIES["diffusers"])
    engine.load(ModelFiles("m", root / model, options | {"self_test": False}))
    return engine


def pixels(engine: DiffusersEngine, prompt: str, **options: Any) -> bytes:
    asked = ImageInput(prompt, width=64, height=64, num_inference_steps=2, **options)
    made = asyncio.run(engine.run("m", Request("j", asked, 5), Heard(), Cancellation()))
    assert isinstance(made, Images)
    return opened(made.images[0]).tobytes()


def by_diffusers(root: Path, prompt: str, vectors: torch.Tensor, token: str) -> bytes:
    """What diffusers draws with an embedding that it has loaded by itself."""
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(root / "sd15", safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_textual_inversion(vectors, token=token)
    generator = torch.Generator("cpu").manual_seed(5)
    given = {"width": 64, "height": 64, "num_inference_steps": 2, "generator": generator}
    return in_a_thread(lambda: bytes(pipeline(prompt, **given).images[0].tobytes()))


@pytest.mark.parametrize(
    ("file", "vectors"),
    [
        ("toy.safetensors", ONE),
        ("learned.bin", ONE),
        ("Style.safetensors", THREE),
        ("old.pt", THREE),
        ("older.pt", THREE),
    ],
)
def test_every_kind_of_file_draws_what_diffusers_draws(root: Path, file: str, vectors: torch.Tensor) -> None:
    engine = loaded(root, embeddings=[{"path": file, "token": "zebra"}])
    assert engine.card("m").embeddings == {"zebra": (len(vectors), 768)}
    drawn = pixels(engine, "a zebra b")
    assert drawn == by_diffusers(root, "a zebra b", vectors, "zebra")
    assert pixels(engine, "a ZEBRA b") == drawn  # words are read in small letters


@pytest.mark.slow
def test_a_word_is_no_part_of_another_and_other_prompts_are_what_they_were(root: Path) -> None:
    plain, taught = loaded(root), loaded(root, embeddings=[{"path": "Style.safetensors", "token": "cat"}])
    for prompt in ("a dog", "a cathedral", "concat"):
        assert pixels(taught, prompt) == pixels(plain, prompt), prompt
    drawn = pixels(taught, "a cat")
    assert drawn != pixels(plain, "a cat")
    assert pixels(taught, "a (cat:1.5)", prompt_weights=True) not in (drawn, pixels(taught, "a (cat:1.5)"))
    assert pixels(taught, "a cat") == drawn


def test_both_encoders_of_sdxl_are_taught_and_the_end_of_a_text_stays_its_end(root: Path) -> None:
    engine = create(CAPABILITIES["diffusers"])
    engine.load(ModelFiles("m", root / "sdxl", {"self_test": False}))
    pipeline = engine._loaded["m"].pipeline
    pipeline.text_encoder_2.eos_token_id = 2  # as in the configuration of SDXL
    plain = pixels(engine, "a b")
    taught = load_embeddings(pipeline, {"embeddings": ["xl.safetensors"]}, root)
    assert taught.loaded == {"xl": (3, 768 + 1280)}
    assert pipeline.text_encoder_2.eos_token_id == pipeline.tokenizer_2.eos_token_id
    assert pixels(engine, "a xl") != plain
    for index, (tokenizer, encoder) in enumerate(
        ((pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2))
    ):
        row = encoder.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("xl_1")]
        assert torch.equal(row, (THREE, WIDE)[index][1])


def test_more_words_than_an_encoder_has_room_for_are_learned(root: Path, tmp_path: Path) -> None:
    save_file({"x": torch.randn(60, 768)}, tmp_path / "long.safetensors")
    engine = loaded(root, embeddings=[str(tmp_path / "long.safetensors"), "toy.safetensors"])
    assert engine._loaded["m"].pipeline.text_encoder.get_input_embeddings().weight.shape[0] > 100
    assert pixels(engine, "long toy a") != pixels(engine, "a")


@pytest.mark.parametrize(
    ("model", "file", "said"),
    [
        ("sd15", "xl.safetensors", "has vectors of width 768 and 1280, and the model's encoders read 768"),
        ("sdxl", "toy.safetensors", "has vectors of width 768, and the model's encoders read 768 and 1280"),
        ("sd15", "nowhere.pt", "nowhere.pt"),
        ("sd15", "sd15/unet/diffusion_pytorch_model.safetensors", "is no textual inversion"),
    ],
)
def test_what_is_named_and_does_not_fit_is_refused_at_load(
    root: Path, model: str, file: str, said: str
) -> None:
    with pytest.raises(EngineError, match=said) as refused:
        loaded(root, model, embeddings=["old.pt", file] if model == "sd15" else [file])
    assert refused.value.kind == "load_failed"


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([{"path": "toy.safetensors", "token": "a"}], "'a' is a word of the model already"),
        ([{"path": "toy.safetensors", "token": " "}], "is a word of the model already"),
        (["Style.safetensors", {"path": "toy.safetensors", "token": "style_1"}], "'style_1' is a word"),
        ([3], "option embeddings: Expected"),
        ([{"path": "toy.safetensors", "name": "x"}], "unknown field `name`"),
    ],
)
def test_words_are_each_one_embedding(root: Path, entries: Any, said: str) -> None:
    with pytest.raises(EngineError, match=said):
        loaded(root, embeddings=entries)


def test_what_is_refused_has_changed_nothing(root: Path) -> None:
    pipeline = loaded(root)._loaded["m"].pipeline
    before = len(pipeline.tokenizer), pipeline.text_encoder.get_input_embeddings().weight.clone()
    with pytest.raises(EngineError):
        load_embeddings(pipeline, {"embeddings": ["toy.safetensors", "xl.safetensors"]}, root)
    assert len(pipeline.tokenizer) == before[0]
    assert torch.equal(pipeline.text_encoder.get_input_embeddings().weight, before[1])


def test_of_a_folder_what_fits_is_loaded_and_the_rest_is_told(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "embeddings"
    folder.mkdir()
    for name in ("Style.safetensors", "xl.safetensors", "old.pt"):
        (folder / name).write_bytes((root / name).read_bytes())
    save_file({"x": torch.full((1, 768), float("nan"))}, folder / "nan.safetensors")
    (folder / "page.pt").write_bytes(b"<!doctype html>")
    torch.save(print, folder / "code.pt")
    (folder / "notes.txt").write_text("x")
    card = loaded(root, embedding_dir=str(folder)).card("m")
    assert card.embeddings == {"Style": (3, 768), "old": (3, 768)}
    assert card.skipped_embeddings.keys() == {"xl", "nan", "page", "code"}
    assert "run code" in card.skipped_embeddings["code"] and "1280" in card.skipped_embeddings["xl"]
    with pytest.raises(EngineError, match="is no folder"):
        loaded(root, embedding_dir="nowhere")
    for index in range(MAX_FILES + 1):
        (folder / f"{index}.pt").touch()
    with pytest.raises(EngineError, match=f"{MAX_FILES} at most are read"):
        loaded(root, embedding_dir=str(folder))


def test_pipelines_without_clip_alone_take_none(tmp_path: Path) -> None:
    class Other:
        tokenizer = None

    save_file({"x": ONE}, tmp_path / "x.safetensors")
    with pytest.raises(EngineError, match="Other takes no textual inversions"):
        load_embeddings(Other(), {"embeddings": ["x.safetensors"]}, tmp_path)
    assert "x" in load_embeddings(Other(), {"embedding_dir": "."}, tmp_path).skipped
