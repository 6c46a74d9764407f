"""Stoker's own short form, function projects' models, and how several files become one configuration."""

from pathlib import Path

import pytest

from stoker.schemas.catalog import Adapter, Style
from stoker.services.catalog.documents import ConfigurationError
from stoker.services.catalog.load import MAX_WORKERS, Configuration, WorkerEntry, files_of, load
from stoker.services.catalog.short_form import ENGINE_FEATURES


def read(folder: Path, text: str, **environment: str) -> Configuration:
    path = folder / "stoker.yaml"
    path.write_text(text)
    return load([path], environment)


def refused(folder: Path, text: str) -> str:
    with pytest.raises(ConfigurationError) as error:
        read(folder, text)
    return str(error.value).removeprefix(f"{folder}/stoker.yaml:")


@pytest.mark.parametrize(("engine", "features"), ENGINE_FEATURES.items())
def test_a_model_has_the_features_of_its_engine(tmp_path: Path, engine: str, features: tuple[str, ...]) -> None:
    scheme = {"ollama": "ollama", "openai": "https"}.get(engine, "hf")
    [model] = read(tmp_path, f"models:\n  m: {{engine: {engine.upper()}, url: {scheme}://o/n}}\n").models
    assert model.features == features
    assert model.specs[0].engine == engine


def test_features_that_are_written_replace_those_of_the_engine(tmp_path: Path) -> None:
    [model] = read(tmp_path, "models:\n  m: {engine: llamacpp, url: /x, features: [TextEmbedding]}\n").models
    assert model.features == ("TextEmbedding",)


def test_everything_that_an_entry_says_is_in_the_model(tmp_path: Path) -> None:
    (tmp_path / "w.gguf").write_bytes(b"x" * 7)
    [model] = read(
        tmp_path,
        "models:\n  m:\n    engine: llamacpp\n    url: w.gguf\n    defaults: {temperature: 0.5, max_tokens: 9}\n"
        "    options: {n_ctx: 512}\n    adapters: {polite: lora.gguf, far: hf://o/lora}\n    profile: big\n"
        "    memory: 2GB\n    slots: 3\n    run_timeout_s: 5\n",
    ).models
    [spec] = model.specs
    assert (model.defaults, model.run_timeout_s) == ({"temperature": 0.5, "max_tokens": 9}, 5.0)
    assert (spec.options, spec.profile, spec.memory_bytes, spec.slots) == ({"n_ctx": 512}, "big", 2 * 10**9, 3)
    assert spec.size_bytes == 7
    assert spec.adapters == (Adapter("polite", f"file://{tmp_path}/lora.gguf"), Adapter("far", "hf://o/lora"))
    assert model.created_at == int((tmp_path / "stoker.yaml").stat().st_mtime)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (
            "{engine: diffusers, url: /x, defaults: {max_tokens: 3}}",
            "m.defaults.max_tokens: unknown key; known are: clip_skip",
        ),
        ("{engine: diffusers, url: /x, defaults: {clip_skip: 0}}", "m.defaults.clip_skip: Expected `int` >= 1"),
        ("{engine: diffusers, url: /x, defaults: {prompt_weights: 1}}", "Expected `bool`, got `int`"),
        ("{engine: llamacpp, url: /x, defaults: {width: 3}}", "m.defaults.width: unknown key"),
        (
            "{engine: whisper, url: /x, defaults: {width: 3}}",
            "m.defaults.width: unknown key; known are: language",
        ),
        ("{engine: spandrel, url: /x, defaults: {width: 3}}", "m.defaults.width: unknown key"),
        ("{engine: llamacpp, url: /x, features: [Dance]}", "m.features: Invalid enum value 'Dance'"),
        ("{engine: llamacpp, url: /x, adapters: {a: 3}}", "m.adapters: Expected `str`, got `int`"),
        ("{engine: llamacpp, url: /x, memory: -1}", "m.memory: '-1' is not a size"),
        ("{engine: llamacpp, url: /x, memory: true}", "m.memory: Expected"),
        ("{engine: llamacpp, url: /x, slots: -1}", "m.slots: must be 0 or more, not -1"),
        ("{engine: llamacpp, url: /x, run_timeout_s: 0}", "m.run_timeout_s: must be more than 0, not 0"),
        (
            "{engine: llamacpp, url: /x, run_timeout_s: .nan}",
            "m.run_timeout_s: must be more than 0, not nan",
        ),
        (
            "{engine: llamacpp, url: /x, run_timeout_s: .inf}",
            "m.run_timeout_s: must be finite, not inf",
        ),
        ("{engine: llamacpp, url: /x, slots: 99999999999999999999}", "m.slots: must be at most 100000, not"),
        ("{engine: llamacpp, url: /x, memory: 99999999999999GB}", "is more than any machine has"),
        ("{engine: 3, url: /x}", "m.engine: Expected `str`, got `int`"),
        ("{url: /x}", "models.m: Object missing required field `engine`"),
        ("~", "models.m: must be a mapping of adapters"),
        ("[a]", "models.m: must be a mapping of adapters"),
    ],
)
def test_what_is_wrong_with_an_entry_is_said_with_its_field(tmp_path: Path, entry: str, says: str) -> None:
    assert says in refused(tmp_path, f"models:\n  m: {entry}\n")


@pytest.mark.parametrize("name", ["a.b", "a/b", "Größe 7", "a > *", "1"])
def test_a_model_may_have_any_name_that_can_travel(tmp_path: Path, name: str) -> None:
    [model] = read(tmp_path, f'models:\n  "{name}": {{engine: synthetic}}\n').models
    assert model.name == name


@pytest.mark.parametrize("name", ["", "x" * 201])
def test_a_name_that_cannot_travel_is_refused(tmp_path: Path, name: str) -> None:
    assert "a name " in refused(tmp_path, f'models:\n  "{name}": {{engine: synthetic}}\n')


@pytest.mark.parametrize("handler", ["tasks:resize", "a.b.c:f", "_x:_y"])
def test_a_handler_is_a_function_that_custom_jobs_may_call(tmp_path: Path, handler: str) -> None:
    found = read(tmp_path, f"handlers: ['{handler}']\n")
    assert found.handlers() == (handler,)
    [model] = found.models
    assert (model.features, model.specs[0].engine) == (("Function",), "custom")


@pytest.mark.parametrize(
    "handler", ["tasks", "tasks:", ":f", "a..b:f", "a:b.c", "a-b:f", "a:f:g", "'a b:f'", "3", "[a]", "{a: b}"]
)
def test_what_is_no_handler_is_refused_with_what_one_looks_like(tmp_path: Path, handler: str) -> None:
    said = refused(
        tmp_path, f"handlers:\n- ok:f\n- {handler if handler[0] in '[{3' else repr(handler.strip(chr(39)))}\n"
    )
    assert said.startswith("3: handlers[1]: must look like package.module:function, not ")


def test_the_other_models_are_no_handlers(tmp_path: Path) -> None:
    assert read(tmp_path, "models: {m: {engine: synthetic}}\n").handlers() == ()


def test_a_name_is_taken_once_whoever_took_it(tmp_path: Path) -> None:
    said = refused(tmp_path, "models: {'a:f': {engine: synthetic}}\nhandlers: ['a:f']\n")
    assert said == "2: handlers[0]: a model of this name is there already"
    said = refused(
        tmp_path,
        "models: {m: {engine: synthetic}}\n---\nkind: Model\nmetadata: {name: m}\nspec: {engine: VLLM, url: hf://a/b}\n",
    )
    assert said.endswith("metadata.name: a model of this name is there already")
    said = refused(tmp_path, "resourceProfiles: {p: {}}\n---\nresourceProfiles:\n  p: {}\n")
    assert said == "4: resourceProfiles.p: a profile of this name is there already"


def test_a_spec_that_would_not_fit_into_an_assignment_is_refused(tmp_path: Path) -> None:
    said = refused(
        tmp_path, f"models: {{m: {{engine: diffusers, url: hf://a/b, options: {{vae: {'x' * 70_000}}}}}}}\n"
    )
    assert said.startswith("1: models.m: the spec 'default' has 70")
    assert said.endswith("it may have 65536")


def test_workers_are_what_up_starts(tmp_path: Path) -> None:
    entry = "{profile: gpu, count: 0, memory: 2GB, ram: 4GiB, engines: [VLLM, OpenAI, function]}"
    found = read(tmp_path, f"workers:\n- {{}}\n- {entry}\n")
    engines = ("vllm", "openai", "function")  # in any case of letters, as models name them
    assert found.workers == (
        WorkerEntry(),
        WorkerEntry(profile="gpu", count=0, memory="2GB", ram="4GiB", engines=engines),
    )


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{count: -1}", f"workers[0].count: must be 0 to {MAX_WORKERS}"),
        (f"{{count: {MAX_WORKERS + 1}}}", f"workers[0].count: must be 0 to {MAX_WORKERS}"),
        ("{memory: huge}", "workers[0].memory: 'huge' is not a size"),
        ("{ram: huge}", "workers[0].ram: 'huge' is not a size"),
        (
            "{engines: [synthetic, lamacpp]}",
            "workers[0].engines[1]: unknown engine 'lamacpp'; there are llamacpp",
        ),
        ("{engines: vllm}", "workers[0].engines: Expected `array`, got `str`"),
        ("3", "workers[0]: must be a mapping of count"),
    ],
)
def test_a_wrong_worker_is_refused_before_anything_starts(tmp_path: Path, entry: str, says: str) -> None:
    assert says in refused(tmp_path, f"workers:\n- {entry}\n")


def test_the_most_workers_are_possible(tmp_path: Path) -> None:
    assert read(tmp_path, f"workers: [{{count: {MAX_WORKERS}}}]\n").workers[0].count == MAX_WORKERS


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("models: 3\n", "1: models: must be a mapping, not 3"),
        ("resourceProfiles: [a]\n", "1: resourceProfiles: must be a mapping, not ['a']"),
        ("workers: {count: 1}\n", "1: workers: must be a list, not {'count': 1}"),
        ("handlers: a:f\n", "1: handlers: must be a list, not 'a:f'"),
        ("styles: {}\nhandlers: x\n", "2: handlers: must be a list, not 'x'"),
        ("- a\n", "1: must be a mapping of handlers, models, resourceProfiles, styles, workers, not ['a']"),
        ("just words\n", "1: must be a mapping of"),
        ("kind: [Model]\n", "1: kind: unknown kind ['Model']; there are Model, ResourceProfile"),
        ("kind:\n", "1: kind: unknown kind None"),
    ],
)
def test_a_part_of_another_shape_is_refused(tmp_path: Path, text: str, says: str) -> None:
    assert refused(tmp_path, text).startswith(says)


@pytest.mark.parametrize("key", ["models", "workers", "handlers", "styles", "resourceProfiles"])
def test_a_file_that_ends_behind_a_key_is_refused_and_what_is_written_as_empty_is_not(
    tmp_path: Path, key: str
) -> None:
    assert f"1: {key}: " in refused(tmp_path, f"{key}:\n")
    empty = "{}" if key in ("models", "resourceProfiles") else "[]"
    assert read(tmp_path, f"{key}: {empty}\n") == Configuration()


def test_styles_go_to_every_model_that_draws_and_to_no_other(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "models:\n  d: {engine: diffusers, url: hf://a/b}\n  t: {engine: synthetic}\n"
        "styles:\n- {id: s, lora_path: l.safetensors, levels: [0.5, 1]}\n",
    )
    draws, talks = found.models
    assert draws.styles == (Style("s", f"file://{tmp_path}/l.safetensors", (0.5, 1.0)),)
    assert talks.styles == ()


def test_files_of_a_folder_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.yml", "a.yaml", "c.yaml", "d.json", "e.yaml.bak"):
        (tmp_path / name).write_text("x")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "z.yaml").write_text("x")
    assert [path.name for path in files_of(tmp_path)] == ["a.yaml", "b.yml", "c.yaml"]
    assert files_of(tmp_path / "d.json") == [tmp_path / "d.json"]


def test_nothing_is_a_configuration_too() -> None:
    assert load([], {}) == Configuration()
