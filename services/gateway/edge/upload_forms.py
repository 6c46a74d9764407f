"""An upload as it comes: one file, in a form or as the body itself, never in memory as a whole.

`content()` gives the bytes of the file; `fields` has the form's other fields, those that stand before the file
as soon as its first bytes come.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar
from urllib.parse import parse_qsl

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from stoker.services.gateway.edge.decoding import from_texts
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.forms import MAX_PARTS
from stoker.services.gateway.edge.problems import RequestError, too_large

FORM_MARGIN_BYTES = 64 * 1024
"""What a form may have beside the file."""
RAW_TYPES = ("application/octet-stream", "binary/octet-stream")
MULTIPART = "multipart/form-data"

T = TypeVar("T")


class UploadForm:
    """A request with one file. name: of the form's field with it. most: bytes that it may have.

    The body itself is the file where its type is application/octet-stream; the fields stand in the query then.
    Raises RequestError 413 where the request says that it is larger, 415 for another type.
    """

    def __init__(self, exchange: Exchange, name: str, most: int) -> None:
        self._exchange = exchange
        self._name = name
        self._most = most
        self.fields: dict[str, str] = {}
        self.filename = ""
        kind, options = parse_options_header(exchange.header(b"content-type"))
        self._boundary = options.get("boundary", "") if kind == MULTIPART else ""
        if kind in RAW_TYPES:
            self.fields = dict(parse_qsl(exchange.query_string, keep_blank_values=True))
            self.filename = self.fields.pop("filename", "")
        elif not self._boundary:
            message = f"send {MULTIPART} with the file in `{name}`, or the file itself as {RAW_TYPES[0]}"
            raise RequestError(400, message, field="Content-Type", code="invalid_form")
        self.is_raw = not self._boundary
        self.most_bytes = most
        """That the file may have, as far as the request tells."""
        said = exchange.header(b"content-length")
        if not said.isdecimal() or exchange.header(b"content-encoding"):
            return
        if int(said) > most + (0 if self.is_raw else FORM_MARGIN_BYTES):
            raise too_large("a file", most, int(said))
        self.most_bytes = min(most, int(said))

    async def content(self) -> AsyncGenerator[bytes]:
        """The bytes of the file, as they come. Raises RequestError 400, 408, 413, ClientGone."""
        if self._boundary:
            async with aclosing(self._of_form()) as chunks:
                async for chunk in chunks:
                    yield chunk
        else:
            async with aclosing(self._exchange.chunks(self._most, "a file")) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def _of_form(self) -> AsyncGenerator[bytes]:
        most = self._most + FORM_MARGIN_BYTES
        parser = PushMultipartParser(self._boundary, max_segment_count=MAX_PARTS)
        segment: MultipartSegment | None = None
        size, has_file = 0, False
        text = bytearray()
        async with aclosing(self._exchange.chunks(most, "a form with a file")) as chunks:
            try:
                async for chunk in chunks:
                    for event in parser.parse(chunk):
                        if isinstance(event, MultipartSegment):
                            segment = event
                            has_file = self._is_file(segment, has_file)
                        elif event is None:
                            self._end(segment, text)
                        elif segment is not None and segment.name == self._name:
                            size += len(event)
                            if size > self._most:
                                raise too_large("a file", self._most)
                            yield bytes(event)
                        else:
                            text += event
                            if len(text) > FORM_MARGIN_BYTES:
                                raise too_large("a form's other fields together", FORM_MARGIN_BYTES)
                parser.close()
            except (MultipartError, UnicodeDecodeError) as error:
                raise RequestError(400, f"the form cannot be read: {error}", code="invalid_form") from error

    def _is_file(self, segment: MultipartSegment, has_file: bool) -> bool:
        """Whether the file has come by now. Raises RequestError 400 where it comes twice."""
        if segment.name != self._name:
            return has_file
        if has_file:
            message = f"{self._name} is given more than once: it takes one file"
            raise RequestError(400, message, field=self._name, code="invalid_value")
        self.filename = segment.filename or ""
        return True

    def _end(self, segment: MultipartSegment | None, text: bytearray) -> None:
        if segment is not None and segment.name != self._name and segment.filename is None:
            self.fields[segment.name.removesuffix("[]")] = text.decode()
        text.clear()

    def as_struct(self, kind: type[T]) -> T:
        """The fields as a Struct. Raises RequestError 400."""
        return from_texts(self.fields, kind)
