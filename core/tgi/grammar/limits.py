"""Limits of grammars. A grammar that exceeds a limit is rejected. If a limit is exceeded during the
generation, the sequence ends with an error.

The limits bound the time and the memory that one client can use. The limits of the parser count
work, so that their effect does not depend on the speed of the machine.
"""

from __future__ import annotations

from typing import Final

from llguidance import LLParserLimits

__all__ = [
    "MAX_ARRAY_ITEMS",
    "MAX_CHOICES",
    "MAX_GBNF_BYTES",
    "MAX_GRAMMAR_BYTES",
    "MAX_INTERSECTIONS",
    "MAX_KEYWORDS",
    "MAX_LENGTH",
    "MAX_LEXER_STATES",
    "MAX_MASK_NS",
    "MAX_NESTING",
    "MAX_OPTIONAL_PROPERTIES",
    "MAX_PATTERN_PROPERTIES",
    "MAX_PROPERTIES",
    "MAX_REGEX_BYTES",
    "parser_limits",
]

MAX_GRAMMAR_BYTES: Final = 512 * 1024
"""Maximum size of a schema or a grammar in UTF-8."""

MAX_REGEX_BYTES: Final = 32 * 1024
"""Maximum size of a regular expression in UTF-8, also of a `pattern` in a schema."""

MAX_GBNF_BYTES: Final = 64 * 1024
"""Maximum size of a GBNF grammar in UTF-8. Its converter is written in Python."""

MAX_NESTING: Final = 64
"""Maximum nesting of a schema in arrays and objects. The parser of llguidance is recursive."""

MAX_CHOICES: Final = 4096
"""Maximum number of values of an `enum` or a choice."""

MAX_PROPERTIES: Final = 2048
"""Maximum number of properties of one object."""

MAX_OPTIONAL_PROPERTIES: Final = 256
"""Maximum number of properties of one object that are not required. The time of a mask grows with
the square of this number.
"""

MAX_INTERSECTIONS: Final = 6
"""Maximum number of regular expressions that apply to one string, and maximum number of the
operators `&` and `~` in a Lark grammar. The time of the compilation grows exponentially with them:
it is 30 ms for 6 and 3 s for 12.
"""

MAX_PATTERN_PROPERTIES: Final = 32
"""Maximum number of expressions in `patternProperties`. Each pair of them is compared."""

MAX_KEYWORDS: Final = 20_000
"""Maximum number of keywords in a schema."""

MAX_ARRAY_ITEMS: Final = 10_000
"""Maximum value of `minItems` and `maxItems`: the grammar contains one symbol per item."""

MAX_LENGTH: Final = 100_000
"""Maximum value of `minLength` and `maxLength`, in characters."""

MAX_MASK_NS: Final = 1_000_000_000
"""Maximum processor time of all masks of one sequence, in nanoseconds. A usual mask takes 10 to
700 µs, so a usual sequence of 1,000 tokens uses less than a tenth.
"""

MAX_LEXER_STATES: Final = 16_000
"""Maximum number of lexer states, for all sequences with the same grammar together. A state needs 1
to 2 kB.
"""

_INITIAL_LEXER_FUEL: Final = 1_000_000  # about 20 ms
_STEP_LEXER_FUEL: Final = 50_000  # about 4 ms per mask
_STEP_MAX_ITEMS: Final = 200_000  # Earley items per mask, about 10 ms
_MAX_ITEMS_IN_ROW: Final = 1_100  # Earley items per byte; an optional property needs 4
# Symbols. In a chain of 3,000 optional symbols, a mask takes about 50 ms.
_MAX_GRAMMAR_SIZE: Final = 10_000


def parser_limits() -> LLParserLimits:
    """The limits of llguidance for one matcher."""
    return LLParserLimits(
        max_items_in_row=_MAX_ITEMS_IN_ROW,
        initial_lexer_fuel=_INITIAL_LEXER_FUEL,
        step_lexer_fuel=_STEP_LEXER_FUEL,
        step_max_items=_STEP_MAX_ITEMS,
        max_lexer_states=MAX_LEXER_STATES,
        max_grammar_size=_MAX_GRAMMAR_SIZE,
        verbose_errors=False,
    )
