"""The served OpenAPI document is kept: whatever schemathesis makes of it, no status that it does not name, no 500."""

from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from tests.conftest import System

SCHEMA_PATH = "/schema/openapi.json"


def failures_of(operation: Any, documented: set[int], examples: int) -> list[str]:
    """What is wrong with the answers to so many requests that were made up for an operation."""
    found: list[str] = []

    @settings(
        max_examples=examples, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(operation.as_strategy())
    def send(case: Any) -> None:
        with requests.request(**case.as_transport_kwargs(), stream=True, timeout=30) as answer:
            if answer.status_code not in documented - {500}:
                found.append(f"{answer.status_code} to {case.as_curl_command()}: {answer.text[:500]}")
            elif not answer.headers.get("content-type", "").startswith("text/event-stream"):
                assert answer.content is not None  # the whole of it comes

    send()
    return found


@pytest.mark.parametrize("examples", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_every_answer_is_one_that_the_document_names(synthetic: System, examples: int) -> None:
    document = schemathesis.openapi.from_url(synthetic.url + SCHEMA_PATH)
    paths = document.raw_schema["paths"]
    operations = [one.ok() for one in document.get_all_operations()]
    assert len(operations) > 30
    wrong: dict[str, list[str]] = {}
    for operation in operations:
        documented = {int(status) for status in paths[operation.path][operation.method.lower()]["responses"]}
        if found := failures_of(operation, documented, examples):
            wrong[operation.label] = found
    assert wrong == {}
