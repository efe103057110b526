"""Reads one JSON value (RFC 8259) from text that arrives in pieces, and checks its syntax."""

from __future__ import annotations

import re
from typing import final

__all__ = ["JsonScanner", "complete_members"]

_SPACE = " \t\n\r"
_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')  # characters of a string that need no attention
_LITERALS = {"t": "true", "f": "false", "n": "null"}
_HEX = frozenset("0123456789abcdefABCDEF")
_DIGITS = frozenset("0123456789")
_NUM_UNICODE_DIGITS = 4
_HIGH_SURROGATES = range(0xD800, 0xDC00)

# The states of a number, with the next state for each class of characters.
_NUMBER = {
    "sign": {"0": "zero", "digit": "integer"},
    "zero": {".": "point", "e": "exponent"},
    "integer": {"0": "integer", "digit": "integer", ".": "point", "e": "exponent"},
    "point": {"0": "fraction", "digit": "fraction"},
    "fraction": {"0": "fraction", "digit": "fraction", "e": "exponent"},
    "exponent": {"0": "power", "digit": "power", "sign": "exponent sign"},
    "exponent sign": {"0": "power", "digit": "power"},
    "power": {"0": "power", "digit": "power"},
}
_NUMBER_STARTS = {"-": "sign", "0": "zero"}
_NUMBER_ENDS = frozenset({"zero", "integer", "fraction", "power"})


@final
class JsonScanner:
    """The state of one JSON value. The work per character does not depend on the length or the
    depth of the value.

    A number or a literal on the top level has no end of its own, so it ends with the character
    after it.
    """

    def __init__(self) -> None:
        self.is_complete = False
        self.is_invalid = False
        # The number of characters at the end of the text so far that belong to an incomplete escape
        # sequence. A surrogate pair is one escape sequence.
        self.num_open = 0
        self.num_members = 0  # number of complete members of the outermost object or array
        self._stack: list[str] = []  # the open brackets
        self._state = "value"
        self._number = ""
        self._literal = ""  # the rest of a literal
        self._escape = ""
        self._is_key = False

    def push(self, text: str, start: int = 0) -> int:
        """Read `text` from `start` on. Returns the position after the last character that belongs
        to the value. The position is less than the length of `text` if the value is complete or if
        the character at the position is invalid.
        """
        position = start
        while position < len(text) and not self.is_complete:
            if self._state == "string" and (found := _PLAIN.match(text, position)):
                self.num_open = 0
                position = found.end()
                continue
            if not self._read(text[position]):
                if not self.is_complete:
                    self.is_invalid = True
                return position
            position += 1
        return position

    def _read(self, character: str) -> bool:
        """Read one character. Returns False if the character does not belong to the value."""
        match self._state:
            case "string":
                return self._read_string(character)
            case "escape":
                return self._read_escape(character)
            case "unicode":
                return self._read_unicode(character)
            case "number":
                return self._read_number(character)
            case "literal":
                return self._read_literal(character)
        return character in _SPACE or self._read_structure(character)

    def _read_structure(self, character: str) -> bool:
        if character in ("]", "}"):
            return self._close(character)
        match self._state:
            case "after value":
                self._state = "key" if self._stack[-1] == "}" else "value"
                return character == ","
            case "colon":
                self._state = "value"
                return character == ":"
            case "key" | "first of }":
                self._state, self._is_key = "string", True
                return character == '"'
        return self._begin_value(character)

    def _close(self, bracket: str) -> bool:
        is_allowed = self._state in ("after value", f"first of {bracket}")
        if not is_allowed or self._stack[-1] != bracket:
            return False
        self._stack.pop()
        self._end_value()
        return True

    def _read_literal(self, character: str) -> bool:
        if not self._literal.startswith(character):
            return False
        self._literal = self._literal[1:]
        if not self._literal:
            self._end_value()
        return True

    def _begin_value(self, character: str) -> bool:
        if character in "{[":
            self._stack.append("}" if character == "{" else "]")
            self._state = f"first of {self._stack[-1]}"
        elif character == '"':
            self._state, self._is_key = "string", False
        elif character in _LITERALS:
            self._state, self._literal = "literal", _LITERALS[character][1:]
        elif character == "-" or character in _DIGITS:
            self._state, self._number = "number", _NUMBER_STARTS.get(character, "integer")
        else:
            return False
        return True

    def _end_value(self) -> None:
        self._state = "after value"
        self.is_complete = not self._stack
        self.num_members += len(self._stack) == 1

    def _read_number(self, character: str) -> bool:
        kind = character
        if character in _DIGITS and character != "0":
            kind = "digit"
        elif character in ("e", "E"):
            kind = "e"
        elif character in ("+", "-"):
            kind = "sign"
        following = _NUMBER[self._number].get(kind)
        if following is not None:
            self._number = following
            return True
        if self._number not in _NUMBER_ENDS:
            return False
        self._end_value()
        return not self.is_complete and self._read(character)

    def _read_string(self, character: str) -> bool:
        if character == "\\":
            self._state = "escape"
            self.num_open += 1
            return True
        self.num_open = 0
        if character != '"':
            return False
        if self._is_key:
            self._state = "colon"
        else:
            self._end_value()
        return True

    def _read_escape(self, character: str) -> bool:
        if character == "u":
            self._state, self._escape = "unicode", ""
            self.num_open += 1
            return True
        if character not in '"\\/bfnrt':
            return False
        self._state = "string"
        self.num_open = 0
        return True

    def _read_unicode(self, character: str) -> bool:
        if character not in _HEX:
            return False
        self._escape += character
        self.num_open += 1
        if len(self._escape) == _NUM_UNICODE_DIGITS:
            self._state = "string"
            if int(self._escape, 16) not in _HIGH_SURROGATES:
                self.num_open = 0
        return True


def complete_members(text: str) -> str:
    """The JSON object that consists of the complete members of `text`, which is an object or the
    start of an object.
    """
    scanner, end = JsonScanner(), 0
    for position, character in enumerate(text):
        num_members = scanner.num_members
        scanner.push(character)
        if scanner.num_members > num_members:
            # A number ends with the character after it.
            end = position + (character not in ", \t\n\r")
    if scanner.is_complete:
        return text
    return text[:end] + "}" if end else "{}"
