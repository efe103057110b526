"""Finds repeated keys in a JSON body that has already been decoded.

msgspec keeps the last value of a repeated key and does not report the repetition, but TGI rejects a
record in which a field is given twice. A second parse of every body would find such a field, but it
would cost more than the first parse. Therefore this module compares two counts for each field name:

* the number of times that the name is followed by a colon in the body. This count is at least the
  number of keys with that name.
* the number of decoded objects that certainly have a key with that name.

If the first count is not above the second one, every object has the name at most once. The body is
parsed again only if the counts cannot exclude a repetition.
"""

from __future__ import annotations

import functools
import json
import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

__all__ = ["MAX_NAME_LENGTH", "field_names", "has_repeated_field"]

MAX_NAME_LENGTH = 64  # maximum length of the name of a field of a record
# A key with its colon. The pattern also matches the end of a key that contains an escaped quote.
# The number of matches may therefore be too high, but never too low.
_KEY = re.compile(rb'"(\w{1,%d})"[ \t\r\n]*:' % MAX_NAME_LENGTH)
# A letter, a digit or an underscore as an escape sequence: "\u0061" is "a".
_ESCAPED_WORD = re.compile(rb"\\u00(?:3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]|5[fF])")
_ESCAPE = b"\\u"

_SCALARS = frozenset({str, int, float, bool, type(None)})
_SCALAR_TYPES = (
    inspect.StrType,
    inspect.IntType,
    inspect.FloatType,
    inspect.BoolType,
    inspect.NoneType,
    inspect.LiteralType,
)


class _Field(NamedTuple):
    key: str  # the key in the body
    get: Callable[[object], object]
    default: object  # the value of an absent field; `msgspec.NODEFAULT` for a required field
    is_counted: bool
    is_scalar: bool  # its value contains no objects


def has_repeated_field(body: bytes, value: object, record: type) -> bool:
    """True if an object of `body` contains a field of its record twice. If only other keys are
    repeated, the result may be True or False.

    `value` is the decoded `body`, an instance of `record`.
    """
    if _ESCAPE in body and _ESCAPED_WORD.search(body):
        return _has_repeated_key(body)
    names = field_names(record)
    counts = Counter(_KEY.findall(body))
    repeated = {
        name.decode(): count for name, count in counts.items() if count > 1 and name in names
    }
    if not repeated:
        return False
    present = _count_present(value, frozenset(repeated))
    if all(count <= present[name] for name, count in repeated.items()):
        return False
    return _has_repeated_key(body)


@functools.cache
def field_names(record: type) -> frozenset[bytes]:
    """The names of all fields of `record` and of nested records, as keys of a body."""
    names: set[bytes] = set()
    pending: list[inspect.Type] = [inspect.type_info(record)]
    while pending:
        match pending.pop():
            case inspect.StructType(fields=fields):
                names.update(field.encode_name.encode() for field in fields)
                pending += [field.type for field in fields]
            case inspect.UnionType(types=types):
                pending += types
            case inspect.Metadata(type=inner) | inspect.ListType(item_type=inner):
                pending.append(inner)
            case inspect.DictType(value_type=inner):
                pending.append(inner)
    return frozenset(names)


def _count_present(value: object, names: frozenset[str]) -> Counter[str]:
    """For each of `names`, a lower bound of the number of objects in `value` with that key.

    A field that is equal to its default may be absent from the body and does not count.
    """
    present: Counter[str] = Counter()
    pending: list[tuple[type, Sequence[Any]]] = [(type(value), [value])]
    # Values of the same type are counted together, because a body may have thousands of messages.
    while pending:
        kind, items = pending.pop()
        if issubclass(kind, msgspec.Struct):
            for field in _fields(kind, names):
                values = list(map(field.get, items))
                if field.is_counted:
                    present[field.key] += len(values) - values.count(field.default)
                if not field.is_scalar:
                    pending += _by_type(values)
        elif kind is dict:
            for item in items:
                present.update(names & item.keys())
                pending += _by_type(list(item.values()))
        elif kind is list:
            for item in items:
                pending += _by_type(item)
        elif kind is msgspec.Raw:  # Raw values are not decoded, so all their keys are counted.
            for item in items:
                keys = map(bytes.decode, _KEY.findall(item))
                present.update(key for key in keys if key in names)
    return present


def _by_type(values: Sequence[Any]) -> list[tuple[type, Sequence[Any]]]:
    """The values that are not scalars, grouped by their type."""
    kinds = set(map(type, values))
    containers = kinds - _SCALARS
    if len(kinds) == 1:
        return [(kind, values) for kind in containers]
    return [(kind, [v for v in values if type(v) is kind]) for kind in containers]


@functools.lru_cache(maxsize=1024)
def _fields(record: type[msgspec.Struct], names: frozenset[str]) -> tuple[_Field, ...]:
    """The fields of `record` that `_count_present` must visit for `names`."""
    kind = inspect.type_info(record)
    assert isinstance(kind, inspect.StructType)
    fields = (
        _Field(
            key=field.encode_name,
            get=operator.attrgetter(field.name),
            default=field.default
            if field.default_factory is msgspec.NODEFAULT
            else field.default_factory(),
            is_counted=field.encode_name in names,
            is_scalar=_is_scalar(field.type),
        )
        for field in kind.fields
    )
    return tuple(field for field in fields if field.is_counted or not field.is_scalar)


def _is_scalar(kind: inspect.Type) -> bool:
    match kind:
        case inspect.Metadata(type=inner):
            return _is_scalar(inner)
        case inspect.UnionType(types=types):
            return all(map(_is_scalar, types))
        case _:
            return isinstance(kind, _SCALAR_TYPES)


def _has_repeated_key(body: bytes) -> bool:
    """True if any object of `body` has a key twice."""
    objects: list[list[tuple[str, object]]] = []
    try:
        json.loads(body, object_pairs_hook=objects.append)
    except ValueError:  # a number with more digits than Python parses
        return False
    return any(len(dict(pairs)) < len(pairs) for pairs in objects)
