"""Calls that a request demands: `tool_choice` required, or naming a function. Pure.

Whether an engine keeps its promise depends on the model's template. So the answer is constrained to a JSON
schema of the calls that are allowed, which every engine can do, and what comes is checked against the schema of
the function. Nothing of it is streamed as text: it is given out as tool calls, whole. An answer that is cut off
before a call is complete is an error, never prose.
"""

import string
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import jsonschema
import msgspec

from schemas.jobs import ChatInput
from services.worker.engines.base import EngineError

Answer = dict[str, Any]

FAILED, CUT_OFF = "tool_call_failed", "tool_call_incomplete"
INCOMPLETE = "the answer ended before the call that tool_choice demands was complete: raise max_tokens"


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

    def calls(self, text: str, job: str, finish_reason: str) -> tuple[Answer, ...]:
        """The call in an answer. Raises EngineError where it is not one, or not one that was allowed."""
        try:
            said = msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            if finish_reason == "length":
                message = (
                    "the answer ended before the call that tool_choice demands was complete: raise max_tokens"
                )
                raise EngineError(
                    message, "validation", code="tool_call_incomplete", field="max_tokens"
                ) from error
            raise EngineError(
                f"the model has made no call of a tool: {error}", code="tool_call_failed"
            ) from error
        name = said.get("name") if isinstance(said, dict) else None
        arguments = self._allowed(name, said.get("arguments") if isinstance(said, dict) else None)
        function = {"name": name, "arguments": msgspec.json.encode(arguments).decode()}
        return ({"id": call_id(job, 0), "type": "function", "function": function},)

    def check(self, calls: tuple[Answer, ...]) -> None:
        """Calls that an engine has made in its own way. Raises EngineError for one that was not allowed."""
        for call in calls:
            function = call["function"]
            try:
                arguments = msgspec.json.decode(function["arguments"] or "{}")
            except msgspec.DecodeError as error:
                raise EngineError(f"the model's call is no JSON: {error}", code=FAILED) from error
            self._allowed(function["name"], arguments)

    def _allowed(self, name: Any, arguments: Any) -> Any:
        """The arguments, where the function is one of these and its schema allows them. Raises EngineError."""
        if name not in self.parameters:
            raise EngineError(f"the model has called {name!r}, which is no tool here", code=FAILED)
        try:
            jsonschema.validate(arguments, self.parameters[name])
        except jsonschema.ValidationError as error:
            message = f"the model has called {name} with arguments that its schema forbids: {error.message}"
            raise EngineError(message, code=FAILED) from error
        except jsonschema.SchemaError as error:
            message = f"the parameters of {name} are no JSON schema: {error.message}"
            raise EngineError(message, "validation", field="tools") from error
        return arguments
