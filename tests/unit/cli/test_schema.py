"""`stoker schema`: which documents there are, and each as JSON."""

import json
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner, Result

from stoker.cli.main import app
from stoker.cli.schema import DOCUMENTS
from stoker.schemas import wire
from stoker.schemas.job_events import Preview, Queued


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["schema", *arguments])


def printed(name: str) -> Any:
    done = run(name)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_without_a_name_it_says_which_there_are() -> None:
    lines = run().stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(DOCUMENTS)


def test_an_unknown_one_is_an_error_that_names_them() -> None:
    done = run("nothing")
    assert done.exit_code == 2
    assert "asyncapi" in done.stderr


@pytest.mark.parametrize(("name", "key"), [("asyncapi", "asyncapi"), ("openapi", "openapi")])
def test_documents_of_apis_say_what_they_are(name: str, key: str) -> None:
    assert printed(name)[key].startswith("3.")


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if not name.endswith("api")])
def test_the_others_are_json_schemas(name: str) -> None:
    found = printed(name)
    assert found["$schema"].startswith("https://json-schema.org/")
    jsonschema.Draft202012Validator.check_schema(found)


def test_events_of_a_job_fit_their_schema_and_others_do_not() -> None:
    checked = jsonschema.Draft202012Validator(printed("job-events"))
    checked.validate(json.loads(wire.encode(Queued(position=1, eta_s=0.5))))
    preview = Preview(term=1, attempt=1, seq=1, index=0, step=1, width=8, height=8, image_bytes=2)
    checked.validate(json.loads(wire.encode(preview)) | {"b64_json": "aGk="})
    checked.validate({"id": "j", "status": "completed", "model": "m", "urls": dict.fromkeys(
        ("self", "events", "cancel", "explain"), "/")})  # fmt: skip
    assert not checked.is_valid({"type": "queued", "position": "first"})
