"""Mistakes that people make in configurations: every one is named, with its place; none passes silently."""

from pathlib import Path

import pytest

from stoker.services.catalog.documents import ConfigurationError
from stoker.services.catalog.load import load

DEMO = "models: {{m: {{engine: {engine}, url: {url}{more}}}}}\n"


def short(more: str = "", engine: str = "llamacpp", url: str = "hf://a/b/c.gguf") -> str:
    return DEMO.format(engine=engine, url=url, more=f", {more}" if more else "")


def document(spec: str, specs: str = "") -> str:
    return f"kind: Model\nmetadata: {{name: m}}\nspec: {{{spec}}}\n" + (f"specs: [{specs}]\n" if specs else "")


def whole(more: str) -> str:
    return document(f"engine: VLLM, url: hf://a/b, {more}")


def modes(mode: str, top: str = "") -> str:
    return f"model_root: .\ndefault_mode: a\nmodes: {{a: {mode}}}\n{top}"


WRONG = {
    "an option with a typo": (short("options: {n_ctxx: 4096}"), "n_ctxx: unknown key; did you mean 'n_ctx'"),
    "an option of another engine": (short("options: {num_ctx: 4096}"), "num_ctx: unknown key; did you mean 'n_ctx'"),
    "an option as a text": (short("options: {n_ctx: many}"), "n_ctx: Expected `int | null`"),
    "an option that is negative": (short("options: {n_ctx: -1}"), "n_ctx: Expected `int` >= 8"),
    "options that are a list": (short("options: [n_ctx]"), "options: "),
    "a data type that is none": (short("options: {dtype: half}", "diffusers"), "dtype: Invalid enum value"),
    "a size without an x": (short("options: {default_size: '512'}", "diffusers"), "default_size: Expected `str`"),
    "a batch of none": (short("options: {batch: 0}", "diffusers"), "batch: Expected `int` >= 1"),
    "a switch as a text": (short("options: {compile: maybe}", "diffusers"), "compile: Expected `bool"),
    "an option of vllm that is an argument": (short("options: {max_model_len: 4}", "vllm"), "unknown key"),
    "an option of whisper with a typo": (short("options: {beam: 3}", "whisper"), "did you mean 'beam_size'"),
    "an unknown engine": (short(engine="llamacp"), "unknown engine 'llamacp'"),
    "no url": ("models: {m: {engine: llamacpp}}\n", "missing required field: url"),
    "no engine": ("models: {m: {url: hf://a/b}}\n", "engine"),
    "http": (short(url="http://host/x.gguf"), "http:// is nothing that the engine llamacpp reads"),
    "https": (short(url="https://host/x.gguf"), "use file:// or hf://"),
    "ollama with vllm": (short(url="ollama://x", engine="vllm"), "ollama:// is nothing that the engine vllm reads"),
    "a hub's name with ollama": (short(url="hf://a/b", engine="ollama"), "use ollama://"),
    "a path with ollama": (short(url="x.gguf", engine="ollama"), "the engine ollama reads ollama://"),
    "half a name on the hub": (short(url="hf://gpt2"), "write hf://owner/name"),
    "a scheme with nothing": (short(url="'file://'"), "nothing behind file://"),
    "an unknown scheme": (short(url="ftp://a/b"), "ftp:// is nothing"),
    "a file that is not there": (short(url="./nowhere.gguf"), "does not exist (yet)"),
    "no url at all, a word": (short(url="not-a-url"), "does not exist (yet)"),
    "s3 without a resolver": (short(url="s3://bucket/x"), "nothing here fetches s3://"),
    "gs without a resolver": (short(url="gs://bucket/x"), "nothing here fetches gs://"),
    "pvc without a resolver": (short(url="pvc://claim/x"), "nothing here fetches pvc://"),
    "an adapter that is not there": (short("adapters: {l: /nowhere/l.gguf}"), "/nowhere/l.gguf does not exist"),
    "a vae that is not there": (short("options: {vae: /nowhere/v}", "diffusers"), "/nowhere/v does not exist"),
    "a key of a model with a typo": (short("profil: gpu"), "profil: unknown key; did you mean 'profile'"),
    "a feature that is none": (short("features: [TextGenration]"), "Invalid enum value 'TextGenration'"),
    "negative slots": (short("slots: -1"), "slots: must be 0 or more"),
    "a timeout of 0": (short("run_timeout_s: 0"), "run_timeout_s: must be more than 0"),
    "a memory that is no size": (short("memory: 5 apples"), "memory: "),
    "a default with a typo": (short("defaults: {temprature: 1}"), "did you mean 'temperature'"),
    "a default of pictures for text": (short("defaults: {width: 64}"), "width: unknown key"),
    "steps as a word": (
        short("defaults: {num_inference_steps: many}", "diffusers"), "num_inference_steps: Expected `int`",
    ),
    "no steps": (short("defaults: {num_inference_steps: 0}", "diffusers"), "num_inference_steps: Expected `int` >= 1"),
    "an odd width": (short("defaults: {width: 63}", "diffusers"), "width: Expected `int` that"),
    "a scale that is no number": (short("defaults: {guidance_scale: .nan}", "diffusers"), "must be a number"),
    "a temperature below 0": (short("defaults: {temperature: -4}"), "temperature: Expected `float` >= 0"),
    "no tokens": (short("defaults: {max_tokens: 0}"), "max_tokens: Expected `int` >= 1"),
    "a name that is empty": ("models: {'': {engine: synthetic}}\n", "a name must not be empty"),
    "a model twice": (short() + "---\n" + whole(""), "a model of this name is there already"),
    "an adapter's name that is a model's": (
        "models:\n  m: {engine: llamacpp, url: hf://a/b/c, adapters: {l: hf://a/b}}\n  m_l: {engine: synthetic}\n",
        "'m_l', and so is a model of that name",
    ),
    "a key at the top with a typo": ("model: {m: {engine: synthetic}}\n", "did you mean 'models'"),
    "workers that are a mapping": ("workers: {count: 1}\n", "workers: must be a list"),
    "too many workers": ("workers: [{count: 1000}]\n", "count: must be 0 to 64"),
    "a key of a worker with a typo": ("workers: [{cuont: 1}]\n", "did you mean 'count'"),
    "a handler that is no function": ("handlers: [module]\n", "must look like package.module:function"),
    "a kind that is none": ("kind: Modell\n", "unknown kind 'Modell'"),
    "a document without a name": ("kind: Model\nspec: {engine: VLLM}\n", "metadata.name"),
    "an engine of a document with a typo": (document("engine: VLM, url: hf://a/b"), "unknown engine 'VLM'"),
    "a field of a document with a typo": (whole("minReplica: 1"), "did you mean 'minReplicas'"),
    "an option of a document with a typo": (
        document("engine: LlamaCpp, url: hf://a/b/c, options: {n_ctxx: 1}"), "did you mean 'n_ctx'",
    ),
    "a profile with a word for its count": (whole("resourceProfile: 'cpu:x'"), "must look like name or name:count"),
    "a profile of none": (whole("resourceProfile: 'cpu:0'"), "must be 1 or more"),
    "a profile that is not there": (whole("resourceProfile: gpuu"), "no resource profile 'gpuu' is defined"),
    "fewer at most than at least": (whole("minReplicas: 3, maxReplicas: 2"), "maxReplicas: must be at least"),
    "a negative delay": (whole("scaleDownDelaySeconds: -1"), "must be 0 or more"),
    "a mean load of 0": (whole("loadBalancing: {prefixHash: {meanLoadFactor: 0}}"), "meanLoadFactor: must be at least"),
    "a mean load twice": (
        whole("loadBalancing: {prefixHash: {meanLoadFactor: 150, meanLoadPercentage: 150}}"),
        "is another spelling of meanLoadPercentage",
    ),
    "a strategy with a typo": (whole("loadBalancing: {strategy: LeastLoaded}"), "strategy: Invalid enum value"),
    "features in a spec": (
        document("engine: VLLM, url: hf://a/b", "{name: a, features: [TextGeneration]}"), "applies to the whole model",
    ),
    "a spec twice": (document("engine: VLLM, url: hf://a/b", "{name: a}, {name: a}"), "a spec 'a' is there already"),
    "a spec without a name": (document("engine: VLLM, url: hf://a/b", "{minReplicas: 1}"), "missing required field"),
    "no specs": (document("engine: VLLM, url: hf://a/b, specs: []"), "must be a list of 1 to 64"),
    "a url of a document": (document("engine: VLLM, url: ftp://a/b"), "ftp:// is nothing"),
    "a launcher without an image": ("resourceProfiles: {a: {launcher: docker}}\n", "needs an image"),
    "a launcher with a typo": ("resourceProfiles: {a: {launcher: dockr}}\n", "launcher: Invalid enum value"),
    "an inventory below 0": ("resourceProfiles: {a: {inventory: -1}}\n", "inventory: must be 0 or more"),
    "a default mode that is none": (modes("{model: x}").replace("mode: a", "mode: b"), "not found in modes"),
    "a mode without a model": (modes("{default_steps: 3}"), "missing required field: model"),
    "a mode that leaves its root": (modes("{model: ../../x}"), "leaves model_root"),
    "a key of a mode with a typo": (modes("{model: x, default_step: 3}"), "did you mean 'default_steps'"),
    "a size that is odd": (modes("{model: x, default_size: 100x100}"), "is no size"),
    "a mode's file that is not there": (modes("{model: nowhere}"), "does not exist (yet)"),
    "nothing behind a key": ("models:\n", "there is nothing in it"),
    "a file that is empty": ("", "there is nothing in it"),
    "no YAML": ("models: {a: [}\n", "not valid YAML"),
    "a key twice": ("models: {a: {engine: synthetic}, a: {engine: synthetic}}\n", "a"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_every_mistake_is_named(name: str, tmp_path: Path) -> None:
    content, says = WRONG[name]
    file = tmp_path / "stoker.yaml"
    file.write_text(content)
    try:
        said = load([file], {}).warnings
    except ConfigurationError as error:
        said = (str(error),)
        assert str(file) in said[0] or "rename one" in said[0]
    assert any(says in one for one in said), said


def test_there_are_more_than_sixty() -> None:
    assert len(WRONG) >= 60


def test_what_is_right_has_no_warning(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    file = tmp_path / "stoker.yaml"
    file.write_text(
        "models:\n"
        "  text: {engine: llamacpp, url: ./x.gguf, options: {n_ctx: 512, n_gpu_layers: 0}}\n"
        "  pictures: {engine: diffusers, url: hf://a/b, options: {dtype: fp16, batch: 4, default_size: 512x512}}\n"
        "  theirs: {engine: ollama, url: 'ollama://qwen3:0.6b', options: {num_ctx: 4096, keep_alive: 5m}}\n"
        "  hears: {engine: whisper, url: hf://a/b, options: {beam_size: 1}}\n"
        "  load: {engine: synthetic, options: {load_s: 1, tokens: 5}}\n"
    )
    assert load([file], {}).warnings == ()
