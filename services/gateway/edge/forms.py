"""multipart/form-data: the files and fields of an upload."""

import io
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_origin

import msgspec
from multipart import MultipartError, MultipartParser, parse_options_header

from stoker.services.gateway.edge.decoding import from_texts
from stoker.services.gateway.edge.encoded import decoded
from stoker.services.gateway.edge.exchange import MAX_BODY_BYTES
from stoker.services.gateway.edge.problems import RequestError

MAX_PARTS = 32

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Form:
    """fields: texts by name, the last of several of one name. files: contents by name. lists: all texts of a
    name, in order. names: of the files, as their sender calls them. `[]` at the end of a name is left out.
    """

    fields: dict[str, str]
    files: dict[str, bytes]
    lists: dict[str, list[str]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def file(self, name: str, what: str = "a picture") -> bytes:
        """A file that must be there, or a field with it as base64. Raises RequestError 400."""
        content = self.files.get(name) or decoded(self.fields.get(name, ""))
        if not content:
            raise RequestError(400, f"{name} is empty: send {what}", field=name, code="invalid_value")
        return content

    def has_file(self, name: str) -> bool:
        """Whether a file of this name was sent, in either way."""
        return name in self.files or name in self.fields

    def as_struct(self, kind: type[T]) -> T:
        """The fields as a Struct; numbers and booleans are read from their texts, and a tuple has all texts of
        its name. Raises RequestError 400.
        """
        fields: dict[str, Any] = dict(self.fields)
        for known in msgspec.structs.fields(kind):  # type: ignore[arg-type]  # every kind here is a Struct
            if get_origin(known.type) is tuple and known.encode_name in self.lists:
                fields[known.encode_name] = self.lists[known.encode_name]
        return from_texts(fields, kind)


def read_form(content_type: str, body: bytes, what: str = "picture", most: int = MAX_BODY_BYTES) -> Form:
    """what: the file that is sent, for errors. most: bytes that the form may have. Raises RequestError 400 for
    what is no form.
    """
    media_type, options = parse_options_header(content_type)
    if media_type != "multipart/form-data" or "boundary" not in options:
        raise RequestError(400, f"send multipart/form-data with the {what} as a file", code="invalid_form")
    fields: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    files: dict[str, bytes] = {}
    names: dict[str, str] = {}
    try:
        parser = MultipartParser(io.BytesIO(body), options["boundary"], part_limit=MAX_PARTS, memory_limit=most)
        for part in parser.parts():
            name = part.name.removesuffix("[]")
            if part.filename is None:
                fields[name] = part.value
                lists.setdefault(name, []).append(part.value)
            elif name in files:
                message = f"{name} is given more than once: it takes one {what}"
                raise RequestError(400, message, field=name, code="invalid_value")
            else:
                files[name] = part.raw
                names[name] = part.filename
    except (MultipartError, UnicodeDecodeError) as error:
        raise RequestError(400, f"the form cannot be read: {error}", code="invalid_form") from error
    return Form(fields, files, lists, names)
