"""Texts as engines make them, cut into deltas in every way, and what a stream of events says."""

import json
from typing import Any

from hypothesis import strategies as st

from stoker.schemas.job_events import Alternative, CallPart, Delta, TextOutput, TokenChance
from stoker.schemas.openai import PromptTokens, Usage
from stoker.services.gateway.text.writing import Writer

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30)
NAMES = st.sampled_from(["add", "remove", "search"])


def call(index: int, name: str, arguments: str) -> dict[str, Any]:
    return {
        "id": f"call{index:05d}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


@st.composite
def outputs(draw: st.DrawFn, *, with_chances: bool = False) -> TextOutput:
    reasoning, text = draw(TEXTS), draw(TEXTS)
    names = draw(st.lists(NAMES, max_size=3))
    arguments = [json.dumps({"n": draw(st.integers(0, 99)), "s": draw(TEXTS)}) for _ in names]
    calls = tuple(call(index, name, arguments[index]) for index, name in enumerate(names))
    chances = ()
    if with_chances:
        chances = tuple(
            TokenChance(one, -0.5, tuple(one.encode()), (Alternative(one, -0.5, tuple(one.encode())),), at)
            for at, one in enumerate(reasoning + text)
        )
    reason = "tool_calls" if calls else draw(st.sampled_from(["stop", "length"]))
    usage = Usage(7, 5, 12, PromptTokens(3))
    return TextOutput(text, reason, usage, calls, reasoning, chances)


@st.composite
def deltas_of(draw: st.DrawFn, output: TextOutput) -> list[Delta]:
    """The same output in pieces; of its calls some parts may never have come."""
    whole, at = output.reasoning + output.text, 0
    found: list[Delta] = []
    while at < len(whole):
        end = draw(st.integers(at + 1, len(whole)))
        reasoning = max(min(end, len(output.reasoning)) - at, 0)
        told = tuple(one for one in output.logprobs if at <= one.at < end)
        found.append(Delta(at=at, text=whole[at:end], reasoning=reasoning, logprobs=told))
        at = end
    for index, one in enumerate(output.tool_calls):
        arguments, place = one["function"]["arguments"], 0
        while place < len(arguments) and draw(st.booleans()):
            end = draw(st.integers(place, len(arguments)))
            part = CallPart(index, one["id"], one["function"]["name"], arguments[place:end], place)
            found.append(Delta(at=at, text="", calls=(part,)))
            place = end
    return found


def written(writer: Writer, output: TextOutput, deltas: list[Delta], index: int = 0) -> bytes:
    """One answer from beginning to end."""
    made = writer.opening(index)
    for delta in deltas:
        made += writer.delta(index, delta)
    return made + writer.ending(index, output) + writer.closing([output])


def events_of(stream: bytes) -> list[tuple[str, Any]]:
    """Name and data of each event, read as strictly as the standard allows."""
    found: list[tuple[str, Any]] = []
    assert stream.endswith(b"\n\n")
    for block in stream.decode().removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        assert set(fields) <= {"event", "data"} and "data" in fields
        data = fields["data"]
        found.append((fields.get("event", ""), data if data == "[DONE]" else json.loads(data)))
    return found
