"""Decodes the JSON of a request body into a record.

msgspec decodes a valid body in one pass. Every other body is read again in document order by
`OrderedReader`, which reports the first error with the same message as TGI. It also accepts three
kinds of bodies that TGI accepts: a value with bytes after it, an array of field values in place of
a record, and an object with a repeated key that is not a field.

msgspec keeps the last value of a repeated key and does not report the repetition, but TGI rejects a
record in which a field is given twice. To find repetitions, each object that corresponds to a
record is split into its members, without decoding their values. The text of the members is then
compared with the text of the body. If the members together are the complete text of the body, no
key of a record is repeated. This costs less than a second parse, because no value is decoded. The
comparison fails for some bodies without repeated keys, for example for an indented list of
messages. Only these bodies are parsed again.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Sequence
from typing import TypeVar, final

import msgspec
from msgspec import inspect

from tgi.errors import TgiError
from tgi.server.http.json_scanner import JsonError, JsonScanner
from tgi.server.http.ordered_json_reader import OrderedReader

__all__ = ["RejectionError", "check_num_values", "has_repeated_field", "read_any_of", "read_json"]

T = TypeVar("T")

_SYNTAX = "Failed to parse the request body as JSON: "
_SHAPE = "Failed to deserialize the JSON body into the target type: "

Members = dict[str, msgspec.Raw]
"""The members of an object, in the order of the body."""

_OBJECT = msgspec.json.Decoder(Members)
_ARRAY = msgspec.json.Decoder(list[Members])

_MAX_VALUES = 1 << 17
# In a text without escaped quotes: a string, or the start of a list or an object.
_VALUE = re.compile(rb'"[^"]*+"|[\[{]')
_VALUES_TEXT = (
    f"The request body has more than {_MAX_VALUES} strings, lists and objects. Send fewer entries."
)

# A key with the punctuation around it. The pattern finds no key with an escape sequence.
_KEY = re.compile(rb'[ \t\r\n]*[{,][ \t\r\n]*"([^"\\]*)"[ \t\r\n]*:[ \t\r\n]*')
# Matches the end of an object. The object may have no members.
_END = re.compile(rb"[ \t\r\n]*\{?[ \t\r\n]*\}[ \t\r\n]*\Z")


@final
class RejectionError(TgiError):
    """The body cannot be read as a request. The response is plain text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def read_json(body: bytes, record: type[T]) -> T:
    """Read `body` as `record`. Raises `RejectionError` with status 400 for invalid JSON, and with
    status 422 for valid JSON with the wrong schema.
    """
    try:
        return _read_fast(body, record)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _read_slowly(body, record)


def read_any_of(body: bytes, records: Sequence[type[T]], name: str) -> T:
    """Read `body` as the first of `records` that matches. Raises `RejectionError` if none does.
    `name` is the name of the enum of these records in TGI. The name appears in the error message.

    TGI parses the whole body before it chooses a record. Invalid JSON at any position is therefore
    rejected with status 400.
    """
    for record in records:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return _read_fast(body, record)
    try:
        JsonScanner(body).skip_value()
    except JsonError as error:
        raise RejectionError(400, f"{_SYNTAX}{error}") from None
    for record in records:
        with contextlib.suppress(RejectionError):
            return _read_slowly(body, record)
    raise RejectionError(422, f"{_SHAPE}data did not match any variant of untagged enum {name}")


def check_num_values(body: bytes) -> None:
    """Raise `RejectionError` with status 413 if a body has too many strings, lists and objects.

    msgspec creates all values in one call, during which no other thread runs. The number of values
    therefore has a limit. Numbers are not counted, because they are created much faster.
    """
    # This is at least the number of values. It also counts the brackets and quotes in strings.
    if body.count(b'"') // 2 + body.count(b"[") + body.count(b"{") <= _MAX_VALUES:
        return
    text = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    for index, _ in enumerate(_VALUE.finditer(text)):  # other threads can run during this loop
        if index == _MAX_VALUES:
            raise RejectionError(413, _VALUES_TEXT)


def _read_fast(body: bytes, record: type[T]) -> T:
    """Decode `body` in one pass. Raises `msgspec.MsgspecError`, UnicodeDecodeError or
    RecursionError if `body` has to be read in document order.
    """
    value = msgspec.json.decode(body, type=record)
    if has_repeated_field(body, record):
        raise msgspec.ValidationError("an object has a key twice")
    return value


def _read_slowly(body: bytes, record: type[T]) -> T:
    reader = OrderedReader(JsonScanner(body))
    try:
        value = reader.read(inspect.type_info(record))
        return msgspec.convert(value, record)
    except JsonError as error:
        path = f"{reader.path}: " if reader.path else ""
        status, prefix = (400, _SYNTAX) if error.is_syntax else (422, _SHAPE)
        raise RejectionError(status, f"{prefix}{path}{error}") from None
    except msgspec.ValidationError as error:
        raise RejectionError(422, f"{_SHAPE}{error}") from None


def has_repeated_field(body: bytes, record: type) -> bool:
    """True if an object of `body` has a key twice. The result may be False if the only repeated
    keys are not fields of a record.

    `body` must be an object that msgspec decodes as a `record`.
    """
    return not _is_plain_object(body, record) and _has_repeated_key(body)


def _is_plain_object(text: bytes, record: type) -> bool:
    """True if `text` certainly contains no repeated field. False if this is not known."""
    members = _OBJECT.decode(text)
    position = 0
    for key, value in members.items():
        found = _KEY.match(text, position)
        raw = bytes(value)
        if found is None or found[1] != key.encode() or not text.startswith(raw, found.end()):
            return False
        # A JSON value is never a prefix of another value, except for numbers (1 and 12). If only a
        # part of a number was matched, `_KEY` or `_END` does not match the rest.
        position = found.end() + len(raw)
    return _END.match(text, position) is not None and _are_plain(record, [members])


def _is_plain_array(elements: Sequence[bytes], record: type) -> bool:
    """True if the records that are the elements of arrays certainly contain no repeated field.
    `elements` contains the text between the brackets of each array.
    """
    text = b"[%b]" % b",".join(elements)
    objects = _ARRAY.decode(text)
    compact = msgspec.json.encode(objects)
    is_whole = compact == text or (
        # With one space after each comma and colon, as Python's `json` writes.
        msgspec.json.format(compact, indent=0) == b"[%b]" % b", ".join(elements)
    )
    return is_whole and _are_plain(record, objects)


def _are_plain(record: type, objects: Sequence[Members]) -> bool:
    """True if the records inside `objects` certainly contain no repeated field. Each element of
    `objects` contains the members of one `record`.
    """
    for name, inner in _inner_records(record):
        values = [bytes(members[name]) for members in objects if name in members]
        if len(values) == 1 and values[0].startswith(b"{"):
            if not _is_plain_object(values[0], inner):
                return False
            continue
        elements = [value for value in values if value.startswith(b"{")]
        elements += [value[1:-1].strip() for value in values if value.startswith(b"[")]
        elements = [element for element in elements if element]
        if elements and not _is_plain_array(elements, inner):
            return False
    return True


@functools.cache
def _inner_records(record: type) -> tuple[tuple[str, type], ...]:
    """The keys of the fields that contain records, with the type of these records."""
    kind = inspect.type_info(record)
    assert isinstance(kind, inspect.StructType)
    found = [(field.encode_name, _record_in(field.type)) for field in kind.fields]
    return tuple((name, inner) for name, inner in found if inner is not None)


def _record_in(kind: inspect.Type) -> type | None:
    match kind:
        case inspect.StructType(cls=record):
            return record
        case inspect.Metadata(type=inner) | inspect.ListType(item_type=inner):
            return _record_in(inner)
        case inspect.UnionType(types=types):
            return next(filter(None, map(_record_in, types)), None)
        case _:
            return None


def _has_repeated_key(body: bytes) -> bool:
    """True if any object of `body` has a key twice."""
    objects: list[list[tuple[str, object]]] = []
    try:
        json.loads(body, object_pairs_hook=objects.append)
    except ValueError:  # Python does not read a number with this many digits
        return False
    return any(len(dict(pairs)) < len(pairs) for pairs in objects)
