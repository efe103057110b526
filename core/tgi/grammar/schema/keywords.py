"""The keywords of JSON schemas: which are enforced exactly, which have no effect on validity, and
which are rejected.

`tools/json_schema_coverage.py` checks this table with the JSON Schema Test Suite.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ANNOTATIONS",
    "FORMATS",
    "FORMAT_PATTERNS",
    "MAX_EXACT_NUMBER",
    "MIN_EXACT_NUMBER",
    "REJECTED",
    "TYPES",
]

TYPES: Final = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})

ANNOTATIONS: Final = frozenset(
    {
        "$anchor",
        "$comment",
        "$schema",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "default",
        "deprecated",
        "description",
        "examples",
        "readOnly",
        "title",
        "writeOnly",
    }
)
"""Keywords that do not change which values are valid."""

REJECTED: Final = frozenset(
    {
        "$dynamicAnchor",
        "$dynamicRef",
        "$recursiveAnchor",
        "$recursiveRef",
        "$vocabulary",
        "contains",
        "dependencies",
        "dependentRequired",
        "dependentSchemas",
        "disallow",
        "divisibleBy",
        "else",
        "extends",
        "if",
        "maxContains",
        "minContains",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
        "uniqueItems",
    }
)
"""Keywords that llguidance cannot express."""

FORMATS: Final = frozenset({"duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"})
"""Formats that llguidance enforces. Each text that it allows is valid."""

_LEAP_YEAR: Final = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE: Final = (
    r"(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    rf"|{_LEAP_YEAR}-02-29)"
)
_CLOCK: Final = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?"
_ZONE: Final = r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"

FORMAT_PATTERNS: Final = {
    "date": f"^{_DATE}$",
    "date-time": f"^{_DATE}T{_CLOCK}{_ZONE}$",
    "time": f"^{_CLOCK}{_ZONE}$",
}
"""Formats that are enforced by a regular expression (RFC 3339, without leap seconds)."""

MAX_EXACT_NUMBER: Final = 2**53
"""llguidance computes with 64-bit floating-point numbers. Larger integers are not exact."""

MIN_EXACT_NUMBER: Final = 1e-15
"""Smaller positive numbers would need very large regular expressions."""
