"""The command line as a whole: its table, what a help imports, one style of options, completion."""

import functools
import inspect
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import stoker
from stoker.cli import main
from stoker.cli.commands import COMMANDS
from tests.conftest import ROOT

HEAVY = ("httpx", "rich", "nats", "torch", "pydantic", "aiohttp", "litestar", "yaml")


@functools.cache
def commands() -> dict[str, Any]:
    root: Any = typer.main.get_command(main.app)
    context = typer.Context(root)
    return {name: root.get_command(context, name) for name in COMMANDS}


def every(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, one in getattr(command, "commands", {}).items():
        yield from every(one, f"{path} {name}")


def imported_by(*arguments: str) -> set[str]:
    """The top-level modules after a run of the command."""
    script = (
        "import sys, json\nfrom stoker.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)"
    )
    command = [sys.executable, "-P", "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_the_table_says_of_each_command_what_its_docstring_says() -> None:
    found = {
        name: (inspect.cleandoc(one.help) if one else "").partition("\n")[0] for name, one in commands().items()
    }
    assert found == {name: one.help for name, one in COMMANDS.items()}


def test_every_command_is_in_the_table_and_in_the_module_that_it_names() -> None:
    commands()
    registered = {one.name or one.callback.__name__ for one in main.app.registered_commands if one.callback}
    registered |= {str(one.name) for one in main.app.registered_groups}
    assert registered == set(COMMANDS)
    for one in COMMANDS.values():
        assert import_module(f"stoker.cli.{one.module}")


@pytest.mark.parametrize(
    ("arguments", "may"),
    [(["--help"], ()), (["--version"], ()), (["up", "--help"], ("rich",)), (["jobs", "--help"], ("rich",))],
    ids=" ".join,
)
def test_a_help_imports_nothing_heavy(arguments: list[str], may: tuple[str, ...]) -> None:
    assert imported_by(*arguments) & set(HEAVY) <= set(may)


INTERRUPTED = """
import os, signal, sys
from stoker.__main__ import main

stops_at = sys.argv.pop(1)

class Interrupting:
    def find_spec(self, name, *_):
        if name == stops_at:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
main()
"""


@pytest.mark.parametrize("imported", ["stoker.cli.main", "typer", "stoker.cli.look"])
def test_ctrl_c_while_a_command_is_imported_is_no_traceback(imported: str) -> None:
    command = [sys.executable, "-P", "-c", INTERRUPTED, imported, "models"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode in (-signal.SIGINT, 130) and "Traceback" not in done.stderr, done.stderr


def test_a_gateway_starts_without_what_describes_openapi() -> None:
    script = "import sys, stoker.services.gateway.__main__ as _; assert 'litestar' not in sys.modules"
    subprocess.run([sys.executable, "-P", "-c", script], check=True, cwd=ROOT)


def test_the_package_is_imported_by_need() -> None:
    script = "import sys, stoker; assert 'msgspec' not in sys.modules; stoker.worker_function; stoker.Client"
    subprocess.run([sys.executable, "-P", "-c", script], check=True, cwd=ROOT)
    assert set(stoker.__all__) <= set(dir(stoker))
    for name in stoker.__all__:
        assert getattr(stoker, name).__name__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = stoker.nothing


def test_options_are_written_in_one_style() -> None:
    letters: dict[str, str] = {}
    for name, command in commands().items():
        for path, one in every(command, name):
            for param in one.params:
                longs = [option for option in param.opts if option.startswith("--")]
                assert all(re.fullmatch(r"--[a-z]+(-[a-z]+)*", option) for option in longs), (path, param.opts)
                for option in param.opts:
                    if re.fullmatch("-[a-z]", option):
                        assert letters.setdefault(option, longs[0]) == longs[0], f"{path}: {option}"
    assert letters["-c"] == "--config"


def test_every_help_is_one_screen_wide_and_says_what_each_option_is() -> None:
    for name, command in commands().items():
        for path, one in every(command, name):
            shown = [param for param in one.params if param.param_type_name == "option" and not param.hidden]
            assert [param.name for param in shown if not param.help] == [], path


def test_a_wrong_name_is_answered_with_a_near_one_and_no_arguments_with_help() -> None:
    wrong = CliRunner().invoke(main.app, ["jbos"])
    assert wrong.exit_code == 2 and "Did you mean 'jobs'" in wrong.output
    assert "Models:" in CliRunner().invoke(main.app, []).output


@pytest.mark.parametrize("given", ["--rate=inf", "--duration=inf", "--duration=nan"])
def test_a_number_without_end_is_refused_before_anything_is_made_of_it(given: str) -> None:
    asked = CliRunner().invoke(main.app, ["bench", "m", "--url", "http://127.0.0.1:1", "--rate=1", given])
    assert asked.exit_code == 2 and f"Invalid value for '{given.partition('=')[0]}'" in asked.output


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    shown = CliRunner().invoke(main.app, ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"stoker {version('stoker')}\n")


def complete(shell: str, *words: str) -> str:
    environment = {
        **os.environ, "_STOKER_COMPLETE": f"complete_{shell}", "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1), "_TYPER_COMPLETE_ARGS": " ".join(words), "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }  # fmt: skip
    command = [str(Path(sys.executable).parent / "stoker")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_options(shell: str) -> None:
    found = complete(shell, "stoker", "jo")
    assert "jobs" in found and "job" in found and "cancel" not in found
    assert "--follow" in complete(shell, "stoker", "jobs", "--fo")
    assert "--version" in complete(shell, "stoker", "--ver")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_shown_for_a_shell(shell: str) -> None:
    environment = {**os.environ, "_STOKER_COMPLETE": f"source_{shell}"}
    command = [str(Path(sys.executable).parent / "stoker")]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "_STOKER_COMPLETE" in shown.stdout


@pytest.mark.parametrize("service", ["gateway", "scheduler", "worker", "autoscaler"])
def test_the_help_of_a_service_needs_its_settings_only(service: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "stoker", service, "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0 and f"stoker {service}" in done.stdout and "--nats" in done.stdout
    assert not imported_by(service, "--help") & {"nats", "litestar", "uvicorn", "torch"}


def test_the_policies_of_a_simulation_are_those_that_there_are() -> None:
    from stoker.cli.simulate import POLICY_NAMES
    from stoker.simulation.policies import POLICIES

    assert tuple(POLICIES) == POLICY_NAMES
