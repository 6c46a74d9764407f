"""The function SDK: signatures, projects, failures, contexts; without any service."""

import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from stoker.functions import ActionContext, Cancelled, ResourceError, ResourceRequirements, ValidationError
from stoker.functions.assets import FileRef
from stoker.functions.describe import described
from stoker.functions.errors import FunctionError, kind_of, message_of, redacted
from stoker.functions.local import run_local
from stoker.functions.project import BadProject, load_project, read_manifest

HEAD = """\
from collections.abc import AsyncIterator, Iterator
from typing import Annotated
import msgspec
from stoker import ActionContext, ModelRef, ResourceRequirements, Src, worker_function

class In(msgspec.Struct):
    text: str
    key: str = "a"

class Out(msgspec.Struct):
    text: str

class Thing:
    @classmethod
    def from_pretrained(cls, path):
        return cls()

"""
MODELS = '[tool.stoker.models]\na = "file://./a"\nb = "owner/name"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    before = set(sys.modules)
    path, finders = list(sys.path), list(sys.meta_path)
    (tmp_path / "pyproject.toml").write_text(MODELS)
    yield tmp_path
    sys.path[:], sys.meta_path[:] = path, finders
    for name in set(sys.modules) - before:
        del sys.modules[name]
    importlib.invalidate_caches()


def project(folder: Path, code: str, name: str = "project_app") -> Path:
    (folder / f"{name}.py").write_text(HEAD + code)
    importlib.invalidate_caches()
    return folder


def test_a_project_is_described_with_schemas_models_and_needs(folder: Path) -> None:
    project(
        folder,
        '''
@worker_function(ResourceRequirements(concurrency=3, timeout_s=7, vram="2GB"))
def draw(ctx: ActionContext, thing: Annotated[Thing, ModelRef(Src.PAYLOAD, "key")], payload: In) -> Out:
    """Draws."""
    return Out(payload.text)

@worker_function(name="other")
async def stream(ctx: ActionContext, payload: In) -> AsyncIterator[Out]:
    yield Out("x")
''',
    )
    found = described(load_project(folder))
    draw, other = found["functions"]
    assert (draw["name"], draw["description"], draw["concurrency"], draw["timeout_s"]) == (
        "draw",
        "Draws.",
        3,
        7,
    )
    assert draw["models"] == [{"parameter": "thing", "src": "payload", "name": "key"}]
    assert draw["input_schema"]["required"] == ["text"]
    assert (other["name"], other["streams"], draw["streams"]) == ("other", True, False)
    assert found["models"]["a"] == {"url": f"file://{folder}/a", "kind": "project_app:Thing"}
    assert found["models"]["b"]["url"] == "hf://owner/name"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def f(payload: In) -> Out: ...", "f: the first parameter must be an ActionContext, not payload"),
        ("def f(ctx: ActionContext) -> Out: ...", "exactly one parameter must be a msgspec Struct"),
        ("def f(ctx: ActionContext, a: In, b: In) -> Out: ...", "found a, b"),
        ("def f(ctx: ActionContext, payload: In, n: int) -> Out: ...", "parameter n must be the payload"),
        ("def f(ctx: ActionContext, payload: In): ...", "the return must be annotated"),
        (
            "def f(ctx: ActionContext, payload: In) -> str: ...",
            "the return must be annotated as a msgspec Struct",
        ),
        ("def f(ctx: ActionContext, payload: In, **more: int) -> Out: ...", "name every parameter"),
        (
            'def f(ctx: ActionContext, t: Annotated[Thing, ModelRef(Src.PAYLOAD, "model")], payload: In) -> Out: ...',
            "f: parameter t reads its model from payload.model, and In has no such field",
        ),
        (
            'def f(ctx: ActionContext, t: Annotated[Thing, ModelRef(Src.FIXED, "c")], payload: In) -> Out: ...',
            "f: parameter t needs the model 'c'; pyproject.toml has a, b",
        ),
        ("def f(ctx: ActionContext, payload: Inn) -> Out: ...", "name 'Inn' is not defined"),
    ],
)
def test_a_signature_is_checked_when_the_project_is_imported(folder: Path, code: str, says: str) -> None:
    project(folder, f"@worker_function()\n{code}\n")
    with pytest.raises(BadProject) as refused:
        load_project(folder)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import nothing_like_this", "ModuleNotFoundError: No module named 'nothing_like_this'; install it"),
        ("def broken(:", "SyntaxError"),
        ("1 / 0", "1 / 0: ZeroDivisionError"),
        ("@worker_function\ndef f(ctx): ...", "write @worker_function(), with parentheses"),
        ("x = 1", "no @worker_function in"),
        (
            '@worker_function(ResourceRequirements(libraries=("not_installed_here",)))\n'
            "def f(ctx: ActionContext, payload: In) -> Out: ...",
            "f needs not_installed_here: pip install",
        ),
    ],
)
def test_an_import_error_has_its_last_frame_and_the_remedy(folder: Path, code: str, says: str) -> None:
    project(folder, code)
    with pytest.raises(BadProject) as refused:
        load_project(folder)
    assert says in str(refused.value)
    assert "project_app" in str(refused.value)


def test_cozy_and_stoker_tables_are_both_read_and_mistakes_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("")
    manifest = tmp_path / "pyproject.toml"
    manifest.write_text(
        '[tool.cozy.models]\nx = "o/n"\n[tool.stoker]\ndebug = true\n[tool.stoker.models]\ny = "/m"\n'
    )
    found = read_manifest(tmp_path)
    assert (found.models, found.is_debug) == ({"x": "hf://o/n", "y": "file:///m"}, True)
    manifest.write_text("[tool.stoker]\nmodule = 'a'\n")
    with pytest.raises(BadProject, match=r"tool\.stoker has no 'module'; known are: debug, models, modules"):
        read_manifest(tmp_path)
    manifest.write_text("[tool.stoker.models]\nx = 3\n")
    with pytest.raises(BadProject, match=r"models\.x must be a model id, not 3"):
        read_manifest(tmp_path)


def test_failures_are_typed_and_redacted() -> None:
    assert [kind_of(error) for error in (ValidationError(), ResourceError(), MemoryError(), KeyError())] == [
        "validation", "resource", "resource", "fatal",
    ]  # fmt: skip

    class QuotaError(FunctionError):
        kind = "quota"

    assert kind_of(QuotaError()) == "fatal"
    said = redacted("GET https://user:pw@host/x token=abc123 in /home/me/secret/file.py with hf_abcdefghijkl")
    assert "pw" not in said
    assert "abc123" not in said
    assert "/home/me" not in said
    assert "hf_abc" not in said
    assert "file.py" in said
    assert len(redacted("x" * 10_000)) == 500
    try:
        raise ValueError("no")
    except ValueError as error:
        assert message_of(error, with_trace=False) == "ValueError: no"
        assert "test_functions.py" in message_of(error, with_trace=True)


def test_a_context_tells_progress_saves_files_and_cleans_up() -> None:
    heard: list[tuple[int, int]] = []
    cancelled = threading.Event()
    ctx = ActionContext("j", 7, lambda step, steps: heard.append((step, steps)), cancelled)
    ctx.progress(0.4)
    ctx.progress(3, 10)
    assert heard == [(40, 100), (3, 10)]
    with pytest.raises(ValueError, match="between 0 and the total"):
        ctx.progress(11, 10)
    ref = ctx.save_file(b"abc", "x.txt")
    assert ref == FileRef("/v1/jobs/j/files/0", "x.txt", "text/plain", 3)
    folder = ctx.folder
    (folder / "f").write_text("x")
    ctx.close()
    assert not folder.exists()
    assert ctx.read_file(FileRef("data:text/plain;base64,YWJj")) == b"abc"
    with pytest.raises(ValidationError, match="data: URL"):
        ctx.read_file(FileRef("/etc/passwd"))
    cancelled.set()
    with pytest.raises(Cancelled):
        ctx.raise_if_cancelled()


def test_requirements_are_checked() -> None:
    with pytest.raises(ValueError, match="concurrency must be at least 1"):
        ResourceRequirements(concurrency=0)
    with pytest.raises(ValueError, match="timeout_s must be more than 0"):
        ResourceRequirements(timeout_s=0)


def test_a_function_runs_here_without_a_server(folder: Path) -> None:
    (folder / "a").mkdir()
    project(
        folder,
        """
@worker_function()
def describe(ctx: ActionContext, thing: Annotated[Thing, ModelRef(Src.PAYLOAD, "key")], payload: In) -> Out:
    return Out(f"{type(thing).__name__} {payload.text}")

@worker_function()
def numbers(ctx: ActionContext, payload: In) -> Iterator[Out]:
    for number in range(3):
        yield Out(str(number))

@worker_function()
def wrong(ctx: ActionContext, payload: In) -> Out:
    return {"text": "no struct"}
""",
    )
    assert run_local(folder, "describe", {"text": "x"}) == ({"text": "Thing x"}, [])
    items: list[object] = []
    result, _ = run_local(folder, "numbers", {"text": ""}, item=items.append)
    assert result == items == [{"text": "0"}, {"text": "1"}, {"text": "2"}]
    with pytest.raises(ValidationError, match="text"):
        run_local(folder, "describe", {"txt": "x"})
    with pytest.raises(ValidationError, match="keys are: a, b"):
        run_local(folder, "describe", {"text": "x", "key": "owner/name"})
    with pytest.raises(Exception, match="wrong must return Out, and returned dict"):
        run_local(folder, "wrong", {"text": "x"})


def test_payload_schemas_are_those_of_the_structs() -> None:
    class Inner(msgspec.Struct):
        n: int

    class Outer(msgspec.Struct):
        inner: Inner

    from stoker.functions.describe import _schema

    schema = _schema(Outer)
    assert schema["properties"]["inner"] == {"$ref": "#/$defs/Inner"}
    assert schema["$defs"]["Inner"]["properties"] == {"n": {"type": "integer"}}
