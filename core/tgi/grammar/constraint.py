"""A constraint on generated text, as a client sent it, and the error of an invalid constraint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from tgi.errors import TgiError

__all__ = ["Constraint", "GrammarError"]


@final
class GrammarError(TgiError):
    """A grammar is invalid, too large, or cannot be expressed exactly. The message names the
    keyword or the limit.
    """


@final
@dataclass(frozen=True)
class Constraint:
    """A constraint on generated text.

    `value` depends on `kind`:

    * `json_schema`: the JSON text of a JSON schema (draft 2020-12).
    * `json_object`: empty. Any JSON object is allowed.
    * `regex`: a regular expression that matches the whole text.
    * `choice`: the JSON text of a list of strings. The text is one of them.
    * `lark`: a Lark grammar in the dialect of llguidance, or a GBNF grammar.
    """

    kind: Literal["json_schema", "json_object", "regex", "choice", "lark"]
    value: str = ""
