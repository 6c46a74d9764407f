"""Calls that a request demands: `tool_choice` required, or naming a function. Pure.

Whether an engine keeps its promise depends on the model's template. So the answer is constrained to a JSON
schema of the calls that are allowed, which every engine can do, and what comes is checked against the schema of
the function (see checking.py). Nothing of it is streamed as text: it is given out as tool calls, whole.
"""

import string
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import msgspec

from stoker.schemas.jobs import ChatInput
from stoker.services.process.json_schemas import JsonSchema

Answer = dict[str, Any]


class Unmet(ValueError):
    """What a model has written is not what it was told to write; says what is wrong with it."""


_DIGITS = string.digits + string.ascii_letters
_ID_CHARS = 9
"""What the strictest chat templates (Mistral's) take."""


def call_id(job: str, index: int) -> str:
    """What a call is named: the same in every attempt of a job."""
    number = int.from_bytes(blake2b(f"{job} {index}".encode(), digest_size=8).digest())
    return "".join(_DIGITS[number // len(_DIGITS) ** place % len(_DIGITS)] for place in range(_ID_CHARS))


@dataclass(frozen=True, slots=True)
class ForcedCalls:
    """parameters: the schema of each function's arguments, by its name."""

    parameters: dict[str, Any]

    @classmethod
    def of(cls, asked: ChatInput) -> "ForcedCalls | None":
        """What a request demands; None where the model may answer as it likes."""
        choice = asked.tool_choice
        if choice is None or choice in ("auto", "none"):
            return None
        functions = [tool["function"] for tool in asked.tools]
        if isinstance(choice, dict):
            wanted = (choice.get("function") or {}).get("name")
            functions = [one for one in functions if one["name"] == wanted]
        return cls({one["name"]: one.get("parameters") or {"type": "object"} for one in functions})

    def response_format(self) -> Answer:
        """What constrains the answer to one call, in OpenAI's dialect."""
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": name}, "arguments": parameters},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for name, parameters in self.parameters.items()
        ]
        schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
        return {"type": "json_schema", "json_schema": {"name": "call", "schema": schema}}

    def told(self, messages: list[Answer], asked: ChatInput) -> list[Answer]:
        """The messages, with the functions described in the system's: for a template that knows no tools."""
        described = [tool["function"] for tool in asked.tools if tool["function"]["name"] in self.parameters]
        said = "Answer with a call of one of these functions: " + msgspec.json.encode(described).decode()
        first = messages[0] if messages else {}
        if first.get("role") in ("system", "developer") and isinstance(first.get("content"), str):
            return [first | {"content": f"{first['content']}\n\n{said}"}, *messages[1:]]
        return [{"role": "system", "content": said}, *messages]

    def calls(self, text: str, job: str) -> tuple[Answer, ...]:
        """The call in an answer. Raises Unmet where it is not one, or not one that was allowed."""
        try:
            said = msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise Unmet(f"it is no call of a tool: {error}") from error
        name = said.get("name") if isinstance(said, dict) else None
        arguments = self._allowed(name, said.get("arguments") if isinstance(said, dict) else None)
        function = {"name": name, "arguments": msgspec.json.encode(arguments).decode()}
        return ({"id": call_id(job, 0), "type": "function", "function": function},)

    def check(self, calls: tuple[Answer, ...]) -> None:
        """Calls that an engine has made in its own way. Raises Unmet for one that was not allowed."""
        for call in calls:
            function = call["function"]
            try:
                arguments = msgspec.json.decode(function["arguments"] or "{}")
            except msgspec.DecodeError as error:
                raise Unmet(f"the arguments of the call are no JSON: {error}") from error
            self._allowed(function["name"], arguments)

    def _allowed(self, name: Any, arguments: Any) -> Any:
        """The arguments, where the function is one of these and its schema allows them. Raises Unmet."""
        if name not in self.parameters:
            raise Unmet(f"{name!r} is no tool that may be called here")
        misfit = JsonSchema(self.parameters[name]).misfit(arguments)
        if misfit is not None:
            place = f"{name}.{misfit.field}" if misfit.field else name
            raise Unmet(f"arguments of {place}: {misfit.message}")
        return arguments
