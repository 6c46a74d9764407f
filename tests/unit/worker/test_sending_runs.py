"""What becomes of a run whose input no message to a runner can hold."""

from typing import Any
from unittest.mock import Mock

import pytest

from schemas.jobs import ImageInput
from services.worker.jobs.runs import Runs
from services.worker.runner.messages import Message, Run
from stoker.functions.frames import frame


class Runners:
    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, engine: str, message: Message) -> None:
        self.sent.append(frame(message))


@pytest.mark.parametrize("value", [2**64, [-(2**63) - 1], "\udcff"])
def test_it_fails_by_itself_and_the_next_one_of_its_lane_runs(
    value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had its slot already: without an end it would keep it, and everybody behind it would wait."""
    wrong, right = Mock(input=ImageInput("x", parameters={"eta": value})), Mock(input=ImageInput("x"))
    core, endings, runners = Mock(), Mock(), Runners()
    core.next_to_run.side_effect = [[wrong], [right], []]
    runs = Runs("w", core, Mock(), runners, Mock(), endings)  # type: ignore[arg-type]
    monkeypatch.setattr(runs, "_begin", Mock())
    monkeypatch.setattr(runs, "_run", lambda attempt: Run("j", "m", attempt.input, 1))
    runs.start_next("images")
    assert len(runners.sent) == 1
    ((failed, kind, reason),) = [call.args for call in endings.failed.call_args_list]
    assert failed is wrong and kind == "validation" and "cannot be sent" in reason
