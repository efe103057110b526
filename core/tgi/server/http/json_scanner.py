"""A JSON scanner with the error messages and positions of TGI, which uses serde_json 1.0."""

from __future__ import annotations

import re
from typing import final

__all__ = ["JsonError", "JsonScanner"]

_SPACE = re.compile(rb"[ \t\r\n]*")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_HEX = re.compile(rb"[0-9a-fA-F]{4}")
_ESCAPES = {
    b"n": "\n",
    b"t": "\t",
    b"r": "\r",
    b"b": "\b",
    b"f": "\f",
    b"/": "/",
    b"\\": "\\",
    b'"': '"',
}
_LITERALS = {b"t": (b"true", True), b"f": (b"false", False), b"n": (b"null", None)}
_MAX_U64 = 2**64 - 1
_MIN_I64 = -(2**63)


@final
class JsonError(Exception):
    """The text is not valid JSON (`is_syntax`), or valid JSON with the wrong schema."""

    def __init__(self, message: str, is_syntax: bool) -> None:
        super().__init__(message)
        self.is_syntax = is_syntax


@final
class JsonScanner:
    """Reads a JSON text from a position that only moves forward. Methods raise `JsonError`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def syntax_error(self, message: str, ahead: int = 1) -> JsonError:
        """Create a syntax error whose location is `ahead` bytes after the position."""
        return JsonError(
            f"{message}{self._place(min(self._position + ahead, len(self._data)))}", is_syntax=True
        )

    def type_error(self, message: str) -> JsonError:
        """Create an error for the value that was read last."""
        return JsonError(f"{message}{self._place(self._position)}", is_syntax=False)

    def peek(self) -> bytes:
        """Skip white space and return the next byte, or an empty string at the end."""
        found = _SPACE.match(self._data, self._position)
        self._position = found.end() if found else self._position
        return self._data[self._position : self._position + 1]

    def skip(self) -> None:
        """Skip one byte."""
        self._position += 1

    def peek_value(self) -> bytes:
        """Skip white space and return the next byte. Raises `JsonError` at the end."""
        byte = self.peek()
        if not byte:
            raise self.syntax_error("EOF while parsing a value", 0)
        return byte

    def next_item(self, close: bytes, container: str, is_first: bool) -> bool:
        """Move to the next item of an array or object. Returns False after the last item, whose
        closing bracket is skipped.
        """
        byte = self.peek()
        if not byte:
            raise self.syntax_error(f"EOF while parsing {container}", 0)
        if byte == close:
            self.skip()
            return False
        if is_first:
            return True
        if byte != b",":
            raise self.syntax_error(f"expected `,` or `{close.decode()}`")
        self.skip()
        if self.peek() == close:
            raise self.syntax_error("trailing comma")
        return True

    def key(self) -> str:
        """Read the key of an object's item and the colon after the key."""
        byte = self.peek_value()
        if byte != b'"':
            raise self.syntax_error("key must be a string")
        key = self.string()
        byte = self.peek()
        if not byte:
            raise self.syntax_error("EOF while parsing an object", 0)
        if byte != b":":
            raise self.syntax_error("expected `:`")
        self.skip()
        return key

    def string(self) -> str:
        """Read a string, whose first quote is the next byte."""
        self.skip()
        parts: list[str] = []
        while True:
            found = _PLAIN.match(self._data, self._position)
            end = found.end() if found else self._position
            try:
                parts.append(self._data[self._position : end].decode())
            except UnicodeDecodeError as error:
                self._position += error.start
                raise self.syntax_error("invalid unicode code point") from None
            self._position = end
            match self._data[end : end + 1]:
                case b"":
                    raise self.syntax_error("EOF while parsing a string", 0)
                case b'"':
                    self.skip()
                    return "".join(parts)
                case b"\\":
                    parts.append(self._escape())
                case _:
                    raise self.syntax_error(
                        "control character (\\u0000-\\u001F) found while parsing a string"
                    )

    def number(self) -> int | float:
        """Read a number. An integer that exceeds 64 bits is returned as a float."""
        found = _NUMBER.match(self._data, self._position)
        if found is None or self._data[found.end() : found.end() + 1].isdigit():
            raise self.syntax_error("invalid number", 2)
        text = found.group()
        self._position = found.end()
        if self._data[self._position : self._position + 1] in (b".", b"e", b"E"):
            raise self.syntax_error("invalid number", 2)
        if found.group(1) is None and found.group(2) is None and len(text) <= len(str(_MIN_I64)):
            integer = int(text)
            if _MIN_I64 <= integer <= _MAX_U64 and text != b"-0":
                return integer
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise self.syntax_error("number out of range", 0)
        return value

    def literal(self) -> bool | None:
        """Read `true`, `false` or `null`."""
        word, value = _LITERALS[self._data[self._position : self._position + 1]]
        for length in range(1, len(word) + 1):
            if self._data[self._position : self._position + length] != word[:length]:
                if self._position + length > len(self._data):
                    raise self.syntax_error("EOF while parsing a value", length)
                raise self.syntax_error("expected ident", length)
        self._position += len(word)
        return value

    def scalar(self) -> str | int | float | bool | None:
        """Read a string, a number or a literal."""
        byte = self.peek_value()
        if byte == b'"':
            return self.string()
        if byte in _LITERALS:
            return self.literal()
        if byte == b"-" or byte.isdigit():
            return self.number()
        raise self.syntax_error("expected value")

    def skip_value(self) -> None:
        """Skip a value of any type. Nested values are skipped without recursion, so that only the
        size of the body limits their depth.
        """
        open_brackets: list[bytes] = []
        while True:
            byte = self.peek_value()
            if byte in (b"[", b"{"):
                self.skip()
                open_brackets.append(b"]" if byte == b"[" else b"}")
                is_first = True
            else:
                self.scalar()
                is_first = False
            while open_brackets:
                close = open_brackets[-1]
                if self.next_item(close, "a list" if close == b"]" else "an object", is_first):
                    if close == b"}":
                        self.key()
                    break
                open_brackets.pop()
                is_first = False
            if not open_brackets:
                return

    def raw_value(self) -> bytes:
        """Skip a value of any type and return its bytes."""
        self.peek_value()
        start = self._position
        self.skip_value()
        return self._data[start : self._position]

    def _escape(self) -> str:
        self.skip()
        letter = self._data[self._position : self._position + 1]
        if not letter:
            raise self.syntax_error("EOF while parsing a string", 0)
        if letter in _ESCAPES:
            self.skip()
            return _ESCAPES[letter]
        if letter != b"u":
            raise self.syntax_error("invalid escape")
        unit = self._hex_unit()
        if 0xDC00 <= unit <= 0xDFFF:
            raise self.syntax_error("lone leading surrogate in hex escape", 0)
        if unit < 0xD800 or unit > 0xDBFF:
            return chr(unit)
        if self._data[self._position : self._position + 2] != b"\\u":
            raise self.syntax_error("unexpected end of hex escape")
        self.skip()
        low = self._hex_unit()
        if not 0xDC00 <= low <= 0xDFFF:
            raise self.syntax_error("lone leading surrogate in hex escape", 0)
        return chr(0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00))

    def _hex_unit(self) -> int:
        self.skip()
        found = _HEX.match(self._data, self._position)
        if found is None:
            if self._position + 4 > len(self._data):
                raise self.syntax_error("EOF while parsing a string", 4)
            raise self.syntax_error("invalid escape", 4)
        self._position += 4
        return int(found.group(), 16)

    def _place(self, end: int) -> str:
        line = self._data.count(b"\n", 0, end) + 1
        column = end - (self._data.rfind(b"\n", 0, end) + 1)
        return f" at line {line} column {column}"
