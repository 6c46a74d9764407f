"""What a checkpoint is: told from the file, refused when it is none."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stoker.services.worker.models.weights.detect import UnknownCheckpoint, detect
from stoker.services.worker.models.weights.lora import cross_attention_dim, why_unfit
from tests.fixtures import checkpoints
from tests.fixtures.single_files import single_file


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    for make in (checkpoints.sd15, checkpoints.sdxl, checkpoints.kandinsky22, checkpoints.kandinsky3):
        make(root / make.__name__)
    for name in ("sd15", "sdxl"):
        for suffix in (".safetensors", ".ckpt"):
            single_file(root / name, root / f"{name}{suffix}")
    return root


@pytest.mark.parametrize(
    ("name", "architecture", "dim"),
    [
        ("sd15", "sd15", 768),
        ("sd15.safetensors", "sd15", 768),
        ("sd15.ckpt", "sd15", 768),
        ("sdxl", "sdxl", 2048),
        ("sdxl.safetensors", "sdxl", 2048),
        ("sdxl.ckpt", "sdxl", 2048),
        ("kandinsky22", "kandinsky22", 32),
        ("kandinsky3", "kandinsky3", 4),
    ],
)
def test_the_architecture_is_in_the_checkpoint(root: Path, name: str, architecture: str, dim: int) -> None:
    found = detect(root / name)
    assert (found.architecture, found.cross_attention_dim) == (architecture, dim)


def test_a_name_that_lies_deceives_nobody(root: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "sd15-kandinsky3-v3.safetensors"
    renamed.write_bytes((root / "sdxl.safetensors").read_bytes())
    assert detect(renamed).architecture == "sdxl"


def test_a_refiner_has_the_second_encoder_only(tmp_path: Path) -> None:
    tensors = {
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(8, 1280),
        "conditioner.embedders.0.model.ln_final.weight": torch.zeros(1280),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    found = detect(tmp_path / "x.safetensors")
    assert (found.architecture, found.cross_attention_dim) == ("sdxl-refiner", 1280)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("kandinsky3-1.safetensors", "kandinsky3"), ("kandinsky-v3.safetensors", "kandinsky3"),
     ("kandinsky-2-2.safetensors", "kandinsky22")],
)  # fmt: skip
def test_kandinsky_files_are_told_by_name_where_the_file_does_not(
    tmp_path: Path, name: str, architecture: str
) -> None:
    save_file({"unet.down_blocks.0.resnets.0.conv1.weight": torch.zeros(1)}, tmp_path / name)
    assert detect(tmp_path / name).architecture == architecture


def test_what_is_no_checkpoint_is_refused_with_what_was_found(root: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.safetensors"
    text.write_text("just a text file, nothing else")
    with pytest.raises(UnknownCheckpoint, match="neither a safetensors file nor a checkpoint"):
        detect(text)
    whole = (root / "sd15.safetensors").read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnknownCheckpoint, match="truncated"):
        detect(cut)
    other = tmp_path / "other.safetensors"
    save_file({"layers.0.weight": torch.zeros(2)}, other)
    with pytest.raises(UnknownCheckpoint, match=r"1 tensors, such as layers\.0\.weight"):
        detect(other)
    with pytest.raises(UnknownCheckpoint, match=r"no model_index\.json"):
        detect(tmp_path)
    with pytest.raises(UnknownCheckpoint, match="No such file"):
        detect(tmp_path / "missing.safetensors")


class Canary:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.write_text, (self.path, "dead")


@pytest.mark.parametrize("is_zip", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, is_zip: bool) -> None:
    canary, evil = tmp_path / "canary", tmp_path / "evil.ckpt"
    content = pickle.dumps({"state_dict": Canary(canary)}, protocol=2)
    if is_zip:
        torch.save({"w": torch.zeros(2)}, evil)
        with zipfile.ZipFile(evil) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(evil, "w") as archive:
            for name, part in parts.items():
                archive.writestr(name, content if name.endswith("data.pkl") else part)
    else:
        evil.write_bytes(content)
    with pytest.raises(UnknownCheckpoint, match="would run code when loaded"):
        detect(evil)
    assert not canary.exists()


def test_a_lora_says_what_it_fits(tmp_path: Path) -> None:
    small = checkpoints.lora(tmp_path / "small.safetensors", 768)
    assert cross_attention_dim(small) == 768
    assert why_unfit(small, 768) == ""
    assert why_unfit(small, 2048) == "small.safetensors is for cross_attention_dim 768, the model has 2048"
    kohya = tmp_path / "kohya.safetensors"
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"
    save_file({name: torch.zeros(4, 2048)}, kohya)
    assert cross_attention_dim(kohya) == 2048
    save_file({"x": torch.zeros(1)}, tmp_path / "none.safetensors")
    assert "is not a LoRA" in why_unfit(tmp_path / "none.safetensors", 768)
