"""Modes files, styles, and the older way by environment: paths stay below their roots, numbers in their bounds."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.catalog import Adapter, Style
from stoker.services.catalog.documents import ConfigurationError, Document
from stoker.services.catalog.load import Configuration, load
from stoker.services.catalog.modes import EDGE_MULTIPLE_PX, MAX_EDGE_PX, MIN_EDGE_PX, check_size, legacy_mode

TOP = "model_root: models\nlora_root: loras\ndefault_mode: a\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "sd.safetensors").write_bytes(b"x" * 9)
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "ink.safetensors").write_bytes(b"y")
    return tmp_path


def read(folder: Path, text: str, **environment: str) -> Configuration:
    path = folder / "modes.yaml"
    path.write_text(text)
    return load([path], environment)


def refused(folder: Path, text: str, **environment: str) -> str:
    with pytest.raises(ConfigurationError) as error:
        read(folder, text, **environment)
    return str(error.value).removeprefix(f"{folder}/modes.yaml:")


def test_everything_that_a_mode_says_is_in_its_model(folder: Path) -> None:
    found = read(
        folder,
        TOP + "modes:\n  a:\n    model: sd.safetensors\n"
        "    loras: [ink.safetensors, {path: ink.safetensors, strength: 0.5, adapter_name: thin}]\n"
        "    default_size: 640x512\n    default_steps: 7\n    default_guidance: 2.5\n"
        "    metadata: {scheduler: lcm, config: c, note: x}\n",
    )
    [model] = found.models
    [spec] = model.specs
    ink = f"file://{folder}/loras/ink.safetensors"
    assert (found.default_mode, found.warnings, model.features) == ("a", (), ("ImageGeneration",))
    assert (spec.url, spec.size_bytes) == (f"file://{folder}/models/sd.safetensors", 9)
    assert spec.loras == (Adapter("lora_ink", ink), Adapter("thin", ink, 0.5))
    assert spec.options == {"default_size": "512x512", "scheduler": "lcm", "config": "c"}
    assert model.defaults == {"num_inference_steps": 7, "guidance_scale": 2.5, "width": 640, "height": 512}
    assert model.mode is not None
    assert (model.mode.model, model.mode.default_size) == ("sd.safetensors", "640x512")
    assert model.mode.metadata == {"scheduler": "lcm", "config": "c", "note": "x"}


def test_what_a_mode_leaves_open_comes_from_the_environment_then_from_the_defaults(folder: Path) -> None:
    text = TOP + "modes: {a: {model: sd.safetensors}}\n"
    plain = read(folder, text).models[0].mode
    told = read(folder, text, DEFAULT_SIZE="256x256", DEFAULT_STEPS="9", DEFAULT_GUIDANCE="3").models[0].mode
    assert plain is not None and told is not None
    assert (plain.default_size, plain.default_steps, plain.default_guidance) == ("512x512", 4, 1.0)
    assert (told.default_size, told.default_steps, told.default_guidance) == ("256x256", 9, 3.0)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DEFAULT_STEPS", "many"),
        ("DEFAULT_GUIDANCE", "strong"),
        ("DEFAULT_STEPS", "inf"),
        ("DEFAULT_STEPS", "nan"),
    ],
)
def test_a_wrong_variable_is_named(folder: Path, variable: str, value: str) -> None:
    said = refused(folder, TOP + "modes: {a: {model: sd.safetensors}}\n", **{variable: value})
    assert said == f"{variable} must be a number, not {value!r}"


def test_files_that_are_not_there_yet_are_warnings(folder: Path) -> None:
    found = read(folder, TOP + "modes: {a: {model: later.safetensors, loras: [gone.safetensors]}}\n")
    assert found.warnings == (
        f"mode a: {folder}/models/later.safetensors does not exist (yet)",
        f"mode a: {folder}/loras/gone.safetensors does not exist (yet)",
    )


def test_loras_are_below_the_models_where_no_other_folder_is_named(folder: Path) -> None:
    found = read(
        folder, "model_root: models\ndefault_mode: a\nmodes: {a: {model: sd.safetensors, loras: [l.bin]}}\n"
    )
    assert found.models[0].specs[0].loras == (Adapter("lora_l", f"file://{folder}/models/l.bin"),)


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a/../../x", "..", "~/x", "a/../../models2/x", "../models/../x"]
)
def test_a_path_that_leaves_its_root_is_refused(folder: Path, path: str) -> None:
    said = refused(folder, f"{TOP}modes: {{a: {{model: '{path}'}}}}\n")
    assert f"modes.a.model: {path!r} leaves model_root ({folder}/models)" in said
    said = refused(folder, f"{TOP}modes: {{a: {{model: sd.safetensors, loras: ['{path}']}}}}\n")
    assert f"modes.a.loras[0]: {path!r} leaves lora_root ({folder}/loras)" in said


@pytest.mark.parametrize(
    "path", ["sd.safetensors", "./sd.safetensors", "x/../sd.safetensors", "../models/sd.safetensors"]
)
def test_a_path_with_dots_that_stays_below_its_root_is_the_file_that_is_meant(folder: Path, path: str) -> None:
    found = read(folder, f"{TOP}modes: {{a: {{model: '{path}'}}}}\n")
    assert found.models[0].specs[0].url == f"file://{folder}/models/sd.safetensors"


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("{model: ''}", "modes.a.model: must not be empty"),
        ("{loras: []}", "modes.a: missing required field: model"),
        ("{model: 3}", "modes.a.model: Expected `str`, got `int`"),
        ("{model: m, loras: [{strength: 1}]}", "modes.a.loras: Object missing required field `path`"),
        ("{model: m, loras: ink}", "modes.a.loras: Expected `array`, got `str`"),
        ("{model: m, default_steps: 0}", "modes.a.default_steps: must be 1 to 150, not 0"),
        ("{model: m, default_steps: 151}", "modes.a.default_steps: must be 1 to 150, not 151"),
        ("{model: m, default_guidance: -0.1}", "modes.a.default_guidance: must be 0 to 20, not -0.1"),
        ("{model: m, default_guidance: 20.5}", "modes.a.default_guidance: must be 0 to 20, not 20.5"),
        ("{model: m, default_guidance: .nan}", "modes.a.default_guidance: must be 0 to 20, not nan"),
        ("{model: m, default_size: big}", "modes.a.default_size: 'big' is no size: write WxH"),
        (
            "{model: m, steps: 3}",
            "modes.a.steps: unknown key; known are: controlnets, default_clip_skip, default_guidance",
        ),
        ("m", "modes.a: must be a mapping of"),
    ],
)
def test_what_is_wrong_with_a_mode_is_said_with_its_field(folder: Path, mode: str, says: str) -> None:
    assert says in refused(folder, f"{TOP}modes: {{a: {mode}}}\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("modes: {a: {model: m}}\n", "1: missing required field: model_root"),
        ("model_root: m\nmodes: {a: {model: m}}\n", "missing required field: default_mode"),
        ("model_root: m\ndefault_mode: a\n", "missing required field: modes"),
        ("model_root: m\ndefault_mode: a\nmodes: {}\n", "3: modes: must name at least one mode"),
        ("model_root: m\ndefault_mode: a\nmodes: [a]\n", "3: modes: must name at least one mode"),
        (
            "model_root: ''\ndefault_mode: a\nmodes: {a: {model: m}}\n",
            "1: model_root: must be a folder, not ''",
        ),
        (
            "model_root: m\nlora_root: [x]\ndefault_mode: a\nmodes: {a: {model: m}}\n",
            "2: lora_root: must be a folder",
        ),
        (
            "model_root: m\ndefault_mode: b\nmodes: {a: {model: m}}\n",
            "default_mode 'b' not found in modes. Available modes: ['a']",
        ),
        (
            "model_root: m\ndefault_mode: [a]\nmodes: {a: {model: m}}\n",
            "2: default_mode: default_mode ['a'] not found",
        ),
        ("model_root: m\nmodel: x\n", "2: model: unknown key; did you mean"),
        (
            TOP + "modes: {a: {model: m}}\n---\n" + TOP + "modes: {b: {model: m}}\n",
            "a second modes file; write all modes into one",
        ),
        (TOP + "modes: {a: {model: m}, '': {model: m}}\n", "a name must not be empty"),
    ],
)
def test_what_is_wrong_with_the_file_is_said(folder: Path, text: str, says: str) -> None:
    assert says in refused(folder, text)


@given(width=st.integers(0, 99_999), height=st.integers(0, 99_999))
def test_a_size_is_good_when_both_edges_are(width: int, height: int) -> None:
    is_good = all(
        MIN_EDGE_PX <= edge <= MAX_EDGE_PX and edge % EDGE_MULTIPLE_PX == 0 for edge in (width, height)
    )
    try:
        check_size(Document(Path("x"), {}, {}), ("a",), f"{width}x{height}")
    except ConfigurationError:
        assert not is_good
    else:
        assert is_good


@pytest.mark.parametrize("size", ["8x8", "2048x2048", "64x8"])
def test_the_bounds_of_a_size_are_in_it(size: str) -> None:
    check_size(Document(Path("x"), {}, {}), ("a",), size)


@pytest.mark.parametrize(
    "size", ["", "x", "8", "8x", "8X8", " 8x8", "8x8x8", "-8x8", "8.0x8", "000512x512", "8x8\n"]
)
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(ConfigurationError, match="is no size: write WxH, each a multiple of 8 from 8 to 2048"):
        check_size(Document(Path("x"), {}, {}), ("a",), size)


@pytest.mark.parametrize(
    ("style", "says"),
    [
        ("{id: s, lora_path: l, levels: []}", "styles[0].levels: must name at least one strength"),
        ("{id: s, lora_path: l}", "styles[0]: Object missing required field `levels`"),
        ("{id: s, lora_path: l, levels: [x]}", "styles[0].levels: Expected `float`, got `str`"),
        (
            "{id: s, lora_path: l, levels: [1]}, {id: s, lora_path: l, levels: [1]}",
            "styles[1].id: the style 's' is there already",
        ),
        ("s", "styles[0]: must be a mapping of"),
    ],
)
def test_a_wrong_style_is_refused(folder: Path, style: str, says: str) -> None:
    assert says in refused(folder, f"{TOP}modes: {{a: {{model: sd.safetensors}}}}\nstyles: [{style}]\n")


def test_a_style_is_off_at_0_and_at_its_last_level_beyond_it() -> None:
    style = Style("ink", "file:///l", (0.3, 0.6, 0.9))
    assert style.at(0) is None
    assert style.at(-1) is None
    strengths = [found.strength for level in range(1, 6) if (found := style.at(level))]
    assert strengths == [0.3, 0.6, 0.9, 0.9, 0.9]
    assert style.at(1) == Adapter("style_ink", "file:///l", 0.3)


@pytest.mark.parametrize(
    ("variables", "name", "size"),
    [
        ({"MODEL_ROOT": "", "MODEL": "sd"}, None, ""),
        ({"MODEL": "sd"}, None, ""),
        ({}, None, ""),
        ({"MODEL_ROOT": "R", "MODEL": "sd"}, "sd", "512x512"),
        ({"MODEL_ROOT": "R", "MODEL": "sd", "USE_SDXL": "1"}, "sd", "1024x1024"),
        ({"MODEL_ROOT": "R", "MODEL": "sd", "SDXL_MODEL": "xl", "USE_SDXL": "TRUE"}, "xl", "1024x1024"),
        ({"MODEL_ROOT": "R", "MODEL": "sd", "SDXL_MODEL": "xl", "USE_SDXL": "0"}, "sd", "512x512"),
        ({"SDXL_MODEL_ROOT": "R", "SDXL_MODEL": "xl"}, "xl", "1024x1024"),
        ({"MODEL_ROOT": "R", "MODEL": "sd", "DEFAULT_SIZE": "64x64"}, "sd", "64x64"),
    ],
)
def test_the_older_way_makes_one_mode(
    tmp_path: Path, variables: dict[str, str], name: str | None, size: str
) -> None:
    for checkpoint in ("sd", "xl"):
        (tmp_path / checkpoint).touch()
    found = legacy_mode({key: str(tmp_path) if value == "R" else value for key, value in variables.items()})
    assert (found is None) == (name is None)
    if found is not None:
        assert found.mode is not None
        assert (found.name, found.mode.path, found.mode.default_size) == ("default", f"{tmp_path}/{name}", size)


def test_the_older_way_with_a_wrong_name_or_size_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"MODEL_ROOT and MODEL name .*none, which does not exist"):
        legacy_mode({"MODEL_ROOT": str(tmp_path), "MODEL": "none"})
    (tmp_path / "sd").touch()
    with pytest.raises(ConfigurationError, match="DEFAULT_SIZE: 'big' is no size: write WxH"):
        legacy_mode({"MODEL_ROOT": str(tmp_path), "MODEL": "sd", "DEFAULT_SIZE": "big"})


def test_a_modes_file_wins_over_the_older_way(folder: Path) -> None:
    variables = {"MODEL_ROOT": str(folder / "models"), "MODEL": "sd.safetensors"}
    assert [
        one.name for one in read(folder, TOP + "modes: {a: {model: sd.safetensors}}\n", **variables).models
    ] == ["a"]
    found = read(folder, "models: {m: {engine: synthetic}}\n", **variables)
    assert ([one.name for one in found.models], found.default_mode) == (["m", "default"], "default")
    assert "no modes.yaml: MODEL_ROOT and MODEL make one mode" in found.warnings[0]


def test_textual_inversions_are_options_of_the_engine(folder: Path) -> None:
    top = TOP.replace("default_mode", "embedding_dir: words\ndefault_mode", 1)
    modes = "modes:\n  a:\n    model: sd.safetensors\n    embeddings: [toy.pt, {path: b/bad.pt, token: bad}]\n"
    found = read(folder, top + modes)
    words = folder / "words"
    assert found.models[0].specs[0].options == {
        "default_size": "512x512",
        "embedding_dir": str(words),
        "embeddings": [
            {"path": str(words / "toy.pt"), "token": "toy"},
            {"path": str(words / "b/bad.pt"), "token": "bad"},
        ],
    }
    assert found.warnings == tuple(
        f"mode a: {words / name} does not exist (yet)" for name in ("toy.pt", "b/bad.pt")
    )
    alone = read(folder, TOP + modes).models[0].specs[0].options["embeddings"][0]["path"]
    assert alone == str(folder / "models" / "toy.pt")
    assert "leaves embedding_dir" in refused(folder, top + modes.replace("toy.pt", "../toy.pt"))


def test_weights_and_layers_of_a_mode_are_defaults_of_its_model(folder: Path) -> None:
    text = (
        TOP
        + "modes:\n  a:\n    model: sd.safetensors\n    default_prompt_weights: true\n    default_clip_skip: "
    )
    defaults = read(folder, text + "2\n").models[0].defaults
    assert (defaults["prompt_weights"], defaults["clip_skip"]) == (True, 2)
    assert "default_clip_skip: must be 1 to 24, not 0" in refused(folder, text + "0\n")
    plain = read(folder, TOP + "modes: {a: {model: sd.safetensors}}\n").models[0].defaults
    assert plain.keys() == {"num_inference_steps", "guidance_scale"}
