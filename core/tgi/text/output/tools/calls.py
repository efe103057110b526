"""Reads tool calls that several formats have in common: JSON objects with a name and arguments."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

from tgi.text.output.json_scanner import JsonScanner
from tgi.text.output.part_writer import PartWriter
from tgi.text.output.reader import Parsing, TextReader

__all__ = [
    "CallReader",
    "parse_marked",
    "parse_unmarked",
    "read_arguments",
    "read_call",
    "read_calls",
]

CallReader = Callable[[TextReader, PartWriter], Parsing[bool]]
"""Reads the text after a marker. Returns whether a call has begun. If no call has begun, the reader
has written nothing, and the marker is text.
"""

_ARGUMENT_KEYS = ("arguments", "parameters")


def parse_marked(
    reader: TextReader, writer: PartWriter, call_readers: Mapping[str, CallReader]
) -> Parsing[None]:
    """Split the rest of the output into text and calls. `call_readers` contains the reader of the
    text after each marker.
    """
    while marker := (yield from reader.until(tuple(call_readers), writer.text)):
        reader.mark()
        if (yield from call_readers[marker](reader, writer)):
            reader.release()
        else:
            reader.rewind()
            writer.text(marker)


def parse_unmarked(reader: TextReader, writer: PartWriter, read_first: CallReader) -> Parsing[None]:
    """Read calls at the start of the output, if there are any."""
    reader.mark()
    yield from reader.space()
    if (yield from read_first(reader, writer)):
        reader.release()
    else:
        reader.rewind()


def read_arguments(reader: TextReader, writer: PartWriter, opening: str = "") -> Parsing[bool]:
    """Write a JSON object as the arguments of the current call. Returns whether the object is
    complete. `opening` is the start of the object, if the start is not part of the text.
    """
    writer.arguments(opening)
    is_complete = yield from reader.stream_value(writer.arguments, opening)
    if is_complete:
        writer.end_call()
    return is_complete


def read_call(reader: TextReader, writer: PartWriter) -> Parsing[bool]:
    """Read a call such as `{"name": "f", "arguments": {}}`. The keys may be in any order, and other
    keys are ignored. A call begins when the name and the first character of the arguments are
    known. This function is a `CallReader`.
    """
    call = _Call()
    is_valid = yield from reader.literal("{")
    while is_valid:
        is_valid = yield from _read_member(call, reader, writer)
        if call.has_begun:
            return True
        yield from reader.space()
        if is_valid and not (yield from reader.literal(",")):
            is_last = yield from reader.literal("}")
            if is_last and call.name is not None:
                call.write(writer, "{}")
            return call.has_begun
    return False


def read_calls(
    reader: TextReader, writer: PartWriter, read_one: CallReader, separator: str
) -> Parsing[bool]:
    """Read one or more calls, with `separator` and whitespace between them. This function is a
    `CallReader` if its last two arguments are bound.
    """
    if not (yield from read_one(reader, writer)):
        return False
    while True:
        reader.mark()
        yield from reader.space()
        if not (yield from reader.literal(separator)):
            reader.rewind()
            return True
        yield from reader.space()
        if not (yield from read_one(reader, writer)):
            reader.rewind()
            return True


@final
@dataclass
class _Call:
    """The members of a call that were read so far."""

    name: str | None = None
    arguments: str | None = None
    has_begun: bool = False

    def write(self, writer: PartWriter, arguments: str) -> None:
        """Write the complete call."""
        assert self.name is not None, "the name is known"
        self.has_begun = True
        writer.begin_call(self.name)
        writer.arguments(arguments)
        writer.end_call()


def _read_member(call: _Call, reader: TextReader, writer: PartWriter) -> Parsing[bool]:
    """Read one member of a call. Returns whether it is valid. If the name and the arguments are
    known, the call begins, and the rest of its object is skipped.
    """
    key = yield from _key(reader)
    if key == "name":
        name = yield from reader.string()
        call.name = name if name is not None and writer.has_tool(name) else None
        value = call.name
    elif key in _ARGUMENT_KEYS and call.name is not None and (yield from reader.peek()) == "{":
        call.has_begun = True
        writer.begin_call(call.name)
        reader.release()
        if (yield from read_arguments(reader, writer)):
            yield from _skip_rest(reader)
        return True
    else:
        value = None if key is None else (yield from reader.value())
        if value is not None and key in _ARGUMENT_KEYS:
            value = call.arguments = _object_text(value)
    if call.name is not None and call.arguments is not None:
        call.write(writer, call.arguments)
        yield from _skip_rest(reader)
    return value is not None


def _key(reader: TextReader) -> Parsing[str | None]:
    """Skip a key and its colon. Returns the key, or None if there is no valid key."""
    yield from reader.space()
    key = yield from reader.string()
    yield from reader.space()
    if not (yield from reader.literal(":")):
        return None
    yield from reader.space()
    return key


def _skip_rest(reader: TextReader) -> Parsing[None]:
    """Skip the members after the arguments and the closing bracket of a call. Invalid text is not
    skipped.
    """
    while True:
        reader.mark()
        yield from reader.space()
        if (yield from reader.literal("}")):
            reader.release()
            return
        is_member = (yield from reader.literal(",")) and (yield from _key(reader)) is not None
        if not is_member or (yield from reader.value()) is None:
            reader.rewind()
            return


def _object_text(value: str) -> str | None:
    """The text of a JSON object. The value may be the object, its text inside a JSON string, or
    null for an object without members. Returns None for other values.
    """
    text = value
    if value.startswith('"'):
        text = json.loads(value).strip()
        if not _is_valid_text(text):
            return None
    if text in ("", "null"):
        return "{}"
    return text if text.startswith("{") else None


def _is_valid_text(text: str) -> bool:
    """Whether a text is a JSON value, or empty, and can be encoded in UTF-8."""
    scanner = JsonScanner()
    is_whole = scanner.push(text) == len(text) and (scanner.is_complete or text == "")
    return is_whole and not any("\ud800" <= character <= "\udfff" for character in text)
