"""The held-out prompts, which are written by hand, and the rules that exclude them from training.

A line of `held_out.jsonl` contains a `group`, the `messages`, and the expectation of the answer:
regular expressions in `expect`, a JSON `schema`, or a tool `call`. Sums, words, lists, spans and
numbers are also excluded by value, in any question.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import Counter
from pathlib import Path
from typing import Any

from tools.train_demo.text.wording import normalise

__all__ = ["HeldOut", "Prompt", "held_out", "prompts"]

PATH = Path(__file__).with_name("held_out.jsonl")


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One line of the file. `excluded` contains the values that are excluded from training."""

    group: str
    messages: list[dict[str, str]]
    expect: list[str]
    schema: dict[str, Any] | None = None
    values: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    call: dict[str, Any] | None = None
    excluded: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The questions and values that the generator must not produce. Questions are normalised, and
    lists are compared without regard to order.
    """

    questions: dict[str, tuple[str, ...]]
    """The questions, indexed by that word of each question which occurs in the fewest questions."""
    pairs: frozenset[tuple[int, int]]
    words: frozenset[str]
    items: frozenset[tuple[str, ...]]
    spans: frozenset[tuple[int, int]]
    numbers: frozenset[tuple[str, int]]

    def has_question(self, text: str) -> bool:
        """Return whether `text` contains a held-out question."""
        question = f" {normalise(text)} "
        return any(
            f" {known} " in question
            for word in question.split()
            for known in self.questions.get(word, ())
        )

    def has_pair(self, a: int, b: int) -> bool:
        """Return whether a prompt asks for a + b or b + a."""
        return (a, b) in self.pairs or (b, a) in self.pairs

    def has_items(self, items: list[Any]) -> bool:
        """Return whether a prompt contains a list of these items in any order."""
        return tuple(sorted(map(str, items))) in self.items


@functools.cache
def prompts() -> tuple[Prompt, ...]:
    """Return the prompts in the order of the file."""
    known = {field.name for field in dataclasses.fields(Prompt)}
    found = []
    for line in PATH.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        excluded = {name: row.pop(name) for name in list(row) if name not in known}
        found.append(Prompt(**row, excluded=excluded))
    return tuple(found)


@functools.cache
def held_out() -> HeldOut:
    """Return the exclusion rules for all prompts in the file."""
    rows = prompts()
    return HeldOut(
        questions=_by_rarest_word([normalise(row.messages[-1]["content"]) for row in rows]),
        pairs=frozenset(tuple(row.excluded["pair"]) for row in rows if "pair" in row.excluded),
        words=frozenset(row.excluded["word"] for row in rows if "word" in row.excluded),
        items=frozenset(
            tuple(sorted(map(str, row.excluded["items"])))
            for row in rows
            if "items" in row.excluded
        ),
        spans=frozenset(tuple(row.excluded["span"]) for row in rows if "span" in row.excluded),
        numbers=frozenset(
            tuple(row.excluded["number"]) for row in rows if "number" in row.excluded
        ),
    )


def _by_rarest_word(questions: list[str]) -> dict[str, tuple[str, ...]]:
    counts = Counter(word for question in questions for word in set(question.split()))
    found: dict[str, tuple[str, ...]] = {}
    for question in questions:
        word = min(question.split(), key=lambda word: (counts[word], word))
        found[word] = (*found.get(word, ()), question)
    return found
