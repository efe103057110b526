"""Finds repeated keys in a JSON body that has already been decoded.

msgspec keeps the last value of a repeated key and does not report the repetition, but TGI rejects a
record in which a field is given twice. This module splits the objects of the records into their
members, whose values stay raw text, and compares the members with the body. If they are the whole
body, no key is repeated. This costs less than a second parse, because no value is decoded.

The comparison fails for some bodies without repeated keys, for example for an indented list of
messages. Only these bodies are parsed again.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence

import msgspec
from msgspec import inspect

__all__ = ["has_repeated_field"]

Members = dict[str, msgspec.Raw]
"""The members of an object, in the order of the body."""

_OBJECT = msgspec.json.Decoder(Members)
_ARRAY = msgspec.json.Decoder(list[Members])

# A key with the punctuation around it. The pattern finds no key with an escape sequence.
_KEY = re.compile(rb'[ \t\r\n]*[{,][ \t\r\n]*"([^"\\]*)"[ \t\r\n]*:[ \t\r\n]*')
_END = re.compile(rb"[ \t\r\n]*\{?[ \t\r\n]*\}[ \t\r\n]*\Z")  # also of an object without members


def has_repeated_field(body: bytes, record: type) -> bool:
    """True if an object of `body` has a key twice. Where no field of `record` or of the records in
    it is repeated, the result may be False although another key is.

    `body` must be an object that msgspec decodes as a `record`.
    """
    return not _is_plain_object(body, record) and _has_repeated_key(body)


def _is_plain_object(text: bytes, record: type) -> bool:
    """True if `text` contains no repeated field for certain."""
    members = _OBJECT.decode(text)
    position = 0
    for key, value in members.items():
        found = _KEY.match(text, position)
        raw = bytes(value)
        if found is None or found[1] != key.encode() or not text.startswith(raw, found.end()):
            return False
        # No value is the beginning of another one, except a number. After a part of a number, the
        # next match fails.
        position = found.end() + len(raw)
    return _END.match(text, position) is not None and _are_plain(record, [members])


def _is_plain_array(elements: Sequence[bytes], record: type) -> bool:
    """The same for records that are the elements of arrays, given as the texts between the
    brackets.
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
    """The same for the records in `objects`, which are the members of a `record` each."""
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
    except ValueError:  # a number longer than Python reads
        return False
    return any(len(dict(pairs)) < len(pairs) for pairs in objects)
