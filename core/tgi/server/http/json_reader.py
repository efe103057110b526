"""Decodes the JSON of a request body into a record.

msgspec decodes a valid body in one pass. `repeated_keys` then checks that no field was given twice,
in most cases without a second parse. Every other body is read again by a slower reader in document
order. The slower reader reports the first error with the same message as TGI. It also accepts three
kinds of bodies that TGI accepts: a value with bytes after it, an array of field values in place of
a record, and an object with a repeated key that is not a field.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, final

import msgspec
from msgspec import inspect

from tgi.errors import TgiError
from tgi.server.http.json_format import format_f64, format_string
from tgi.server.http.json_scanner import JsonError, JsonScanner
from tgi.server.http.repeated_keys import has_repeated_field

__all__ = ["RejectionError", "read_any_of", "read_json"]

T = TypeVar("T")

_SYNTAX = "Failed to parse the request body as JSON: "
_SHAPE = "Failed to deserialize the JSON body into the target type: "

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


def _read_fast(body: bytes, record: type[T]) -> T:
    """Decode `body` in one pass. Raises `msgspec.MsgspecError`, UnicodeDecodeError or
    RecursionError if `body` has to be read by the slow reader.
    """
    value = msgspec.json.decode(body, type=record)
    if has_repeated_field(body, record):
        raise msgspec.ValidationError("an object has a key twice")
    return value


def _read_slowly(body: bytes, record: type[T]) -> T:
    reader = _Reader(JsonScanner(body))
    try:
        value = reader.read(inspect.type_info(record))
        return msgspec.convert(value, record)
    except JsonError as error:
        path = f"{reader.path}: " if reader.path else ""
        status, prefix = (400, _SYNTAX) if error.is_syntax else (422, _SHAPE)
        raise RejectionError(status, f"{prefix}{path}{error}") from None
    except msgspec.ValidationError as error:
        raise RejectionError(422, f"{_SHAPE}{error}") from None


@final
class _Reader:
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
            case inspect.ListType(item_type=item):
                return self._list(item)
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
