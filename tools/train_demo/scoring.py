"""Checks of the answers to held-out prompts, and the table of scores."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from tools.train_demo.held_out import Prompt

__all__ = ["Answer", "is_right", "is_valid_json", "score_table"]

_TYPES: dict[str, type | tuple[type, ...]] = {"string": str, "integer": int, "boolean": bool}
GROUPS = {
    "tgi": "questions about tgi, in words not seen in training",
    "sums": "sums of two numbers up to 99, pairs not seen in training",
    "letters": "spelling and letters, words not seen in these exercises",
    "counting": "counting",
    "sorting": "sorting and comparing",
    "facts": "capitals, colours, days, months, opposites",
    "json": "JSON valid against its schema, without a grammar",
    "tools": "tool calls with the right name and arguments, without a grammar",
    "chat": "system prompts, two turns, small talk",
}


@dataclasses.dataclass(frozen=True)
class Answer:
    """The model's answer to a prompt, and whether it ended with the end token."""

    prompt: Prompt
    text: str
    is_ended: bool


def is_right(answer: Answer) -> bool:
    """Return whether the answer meets the expectation of its prompt."""
    prompt = answer.prompt
    if prompt.schema is not None:
        return is_valid_json(answer.text, prompt.schema)
    if prompt.call is not None:
        return _call(answer.text) == {"_name": prompt.call["name"], **prompt.call["arguments"]}
    return all(re.search(pattern, answer.text) for pattern in prompt.expect)


def has_right_values(answer: Answer) -> bool:
    """Return whether a JSON answer also contains exactly the values in the sentence."""
    return is_right(answer) and json.loads(answer.text) == answer.prompt.values


def is_valid_json(text: str, schema: dict[str, Any]) -> bool:
    """Return whether `text` is a JSON object with the required keys and the types of the schema,
    and without other keys if the schema forbids them.
    """
    try:
        value = json.loads(text)
    except ValueError:
        return False
    properties = schema["properties"]
    if not isinstance(value, dict) or any(key not in value for key in schema["required"]):
        return False
    if not schema.get("additionalProperties", True) and any(key not in properties for key in value):
        return False
    return all(_has_type(value[key], properties[key]["type"]) for key in value if key in properties)


def _has_type(value: object, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, _TYPES[name])


def _call(text: str) -> object:
    try:
        return json.loads(text).get("function")
    except (ValueError, AttributeError):
        return None


def score_table(answers: Sequence[Answer]) -> str:
    """Return the scores by group as a Markdown table."""
    lines = ["| Held-out prompts | Right | Of | Share |", "|---|--:|--:|--:|"]

    def row(name: str, marks: list[bool]) -> None:
        lines.append(
            f"| {name} | {sum(marks)} | {len(marks)} | {100 * sum(marks) / len(marks):.0f} % |"
        )

    for group, description in GROUPS.items():
        row(description, [is_right(answer) for answer in answers if answer.prompt.group == group])
    row(
        "JSON with the right values as well",
        [has_right_values(answer) for answer in answers if answer.prompt.group == "json"],
    )
    row("answers that end by themselves", [answer.is_ended for answer in answers])
    return "\n".join(lines)
