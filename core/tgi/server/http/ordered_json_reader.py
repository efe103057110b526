"""Reads a record from JSON in document order, like serde_json.

The first error in the document is reported, with the message that serde_json gives and the path of
the value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import msgspec
from msgspec import inspect

from tgi.server.http.json_format import format_f64, format_string
from tgi.server.http.json_scanner import JsonError, JsonScanner

__all__ = ["OrderedReader"]

_KINDS: dict[bytes, tuple[type[inspect.Type], ...]] = {
    b'"': (inspect.StrType,),
    b"[": (inspect.ListType,),
    b"{": (inspect.StructType, inspect.DictType),
    b"t": (inspect.BoolType,),
    b"f": (inspect.BoolType,),
}
_NUMBER_KINDS = (inspect.IntType, inspect.FloatType)
_NAMES: dict[type[inspect.Type], str] = {
    inspect.StrType: "a string",
    inspect.ListType: "a sequence",
    inspect.DictType: "a map",
    inspect.BoolType: "a boolean",
}


@final
class OrderedReader:
    """Reads values of known types. After an error, `path` is the path of the value that
    caused it.
    """

    def __init__(self, scanner: JsonScanner) -> None:
        self._scanner = scanner
        self.path = ""

    def read(self, kind: inspect.Type) -> object:
        """Read the next value as plain Python data. Raises `JsonError`."""
        schema: dict[str, Any] = {}
        if isinstance(kind, inspect.Metadata):
            schema = kind.extra_json_schema or {}
            kind = kind.type
        title = str(schema.get("title", ""))
        match kind:
            case inspect.UnionType(types=types):
                return self._union(types, title)
            case inspect.StructType():
                return self._record(kind)
            case inspect.ListType(item_type=item) | inspect.DictType(value_type=item):
                return self._list(item) if isinstance(kind, inspect.ListType) else self._map(item)
            case inspect.IntType():
                return self._integer(kind, title)
            case (
                inspect.FloatType() | inspect.StrType() | inspect.BoolType() | inspect.LiteralType()
            ):
                return self._scalar(kind, schema)
            case _:
                raw = self._scanner.raw_value()
                try:
                    return (
                        msgspec.Raw(raw)
                        if isinstance(kind, inspect.RawType)
                        else msgspec.json.decode(raw)
                    )
                except RecursionError:
                    raise self._scanner.syntax_error("recursion limit exceeded", 0) from None

    def _scalar(self, kind: inspect.Type, schema: Mapping[str, Any]) -> object:
        match kind:
            case inspect.LiteralType(values=values):
                return self._variant(schema.get("enum", values))
            case inspect.StrType():
                return self._typed((str,), "a string")
            case inspect.BoolType():
                return self._typed((bool,), "a boolean")
            case _:
                return self._typed((int, float), "f32")

    def _union(self, types: tuple[inspect.Type, ...], title: str) -> object:
        byte = self._scanner.peek_value()
        others = [t for t in types if not isinstance(t, inspect.NoneType)]
        if byte == b"n" and len(others) < len(types):
            return self._scanner.literal()
        if len(others) == 1:
            return self.read(others[0])
        wanted = _NUMBER_KINDS if byte == b"-" or byte.isdigit() else _KINDS.get(byte, ())
        for option in others:
            if isinstance(option.type if isinstance(option, inspect.Metadata) else option, wanted):
                return self.read(option)
        if not title:
            raise self._wrong_type(" or ".join(map(_name, others)))
        self._scanner.skip_value()
        raise self._scanner.type_error(f"data did not match any variant of untagged enum {title}")

    def _record(self, kind: inspect.StructType) -> dict[str, object]:
        match self._scanner.peek_value():
            case b"{":
                return self._object(kind)
            case b"[":
                return self._positional(kind)
            case _:
                raise self._wrong_type(f"struct {kind.cls.__name__}")

    def _object(self, kind: inspect.StructType) -> dict[str, object]:
        scanner, outer = self._scanner, self.path
        scanner.skip()
        fields = {field.encode_name: field for field in kind.fields}
        values: dict[str, object] = {}
        is_first = True
        while scanner.next_item(b"}", "an object", is_first):
            is_first = False
            key = scanner.key()
            if key not in fields:
                scanner.skip_value()
                continue
            if key in values:
                raise scanner.type_error(f"duplicate field `{key}`")
            self.path = f"{outer}.{key}" if outer else key
            values[key] = self.read(fields[key].type)
            self.path = outer
        for field in kind.fields:
            if field.required and field.encode_name not in values:
                raise scanner.type_error(f"missing field `{field.encode_name}`")
        return values

    def _positional(self, kind: inspect.StructType) -> dict[str, object]:
        scanner, outer = self._scanner, self.path
        scanner.skip()
        values: dict[str, object] = {}
        for index, field in enumerate(kind.fields):
            if not scanner.next_item(b"]", "a list", index == 0):
                break
            self.path = f"{outer}[{index}]"
            values[field.encode_name] = self.read(field.type)
            self.path = outer
        else:
            if scanner.next_item(b"]", "a list", not kind.fields):
                raise scanner.syntax_error("trailing characters")
        num_required = sum(field.required for field in kind.fields)
        if len(values) < num_required:
            expected = f"struct {kind.cls.__name__} with {len(kind.fields)} elements"
            raise scanner.type_error(f"invalid length {len(values)}, expected {expected}")
        return values

    def _list(self, item: inspect.Type) -> list[object]:
        scanner, outer = self._scanner, self.path
        if scanner.peek_value() != b"[":
            raise self._wrong_type("a sequence")
        scanner.skip()
        values: list[object] = []
        while scanner.next_item(b"]", "a list", not values):
            self.path = f"{outer}[{len(values)}]"
            values.append(self.read(item))
            self.path = outer
        return values

    def _map(self, item: inspect.Type) -> dict[str, object]:
        scanner, outer = self._scanner, self.path
        if scanner.peek_value() != b"{":
            raise self._wrong_type("a map")
        scanner.skip()
        values: dict[str, object] = {}
        is_first = True
        while scanner.next_item(b"}", "an object", is_first):
            is_first = False
            key = scanner.key()
            self.path = f"{outer}.{key}" if outer else key
            values[key] = self.read(item)
            self.path = outer
        return values

    def _integer(self, kind: inspect.IntType, title: str) -> int:
        if self._scanner.peek_value() in b"[{":
            raise self._wrong_type(title)
        value = self._scanner.scalar()
        if type(value) is not int:
            raise self._scanner.type_error(f"invalid type: {_describe(value)}, expected {title}")
        if (kind.ge is not None and value < kind.ge) or (kind.le is not None and value > kind.le):
            raise self._scanner.type_error(f"invalid value: integer `{value}`, expected {title}")
        return value

    def _typed(self, types: tuple[type, ...], expected: str) -> object:
        if self._scanner.peek_value() in b"[{":
            raise self._wrong_type(expected)
        value = self._scanner.scalar()
        if type(value) not in types:
            raise self._scanner.type_error(f"invalid type: {_describe(value)}, expected {expected}")
        return value

    def _variant(self, values: Sequence[object]) -> object:
        value = self._typed((str,), "variant identifier")
        if value not in values:
            allowed = ", ".join(f"`{v}`" for v in values)
            raise self._scanner.type_error(f"unknown variant `{value}`, expected one of {allowed}")
        return value

    def _wrong_type(self, expected: str) -> JsonError:
        match self._scanner.peek_value():
            case b"[":
                found = "sequence"
            case b"{":
                found = "map"
            case _:
                found = _describe(self._scanner.scalar())
        return self._scanner.type_error(f"invalid type: {found}, expected {expected}")


def _name(kind: inspect.Type) -> str:
    """The name of a type in the error message of a field with several types."""
    if isinstance(kind, inspect.Metadata):
        return str((kind.extra_json_schema or {})["title"])
    return _NAMES[type(kind)]


def _describe(value: str | float | None) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return f"boolean `{str(value).lower()}`"
        case str():
            return f"string {format_string(value)}"
        case int():
            return f"integer `{value}`"
        case _:
            return f"floating point `{format_f64(value)}`"
