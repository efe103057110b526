"""Choosing words: a template such as `{What is|What's} the time{?|}` stands for all its readings; groups may nest."""

from __future__ import annotations

import random
import re

__all__ = ["choose", "normalise", "vary"]

_GROUP = re.compile(r"\{([^{}]*)\}")
_OPENINGS = (
    "Please tell me: ",
    "Tell me, ",
    "Hi! ",
    "Hello, ",
    "Hey, ",
    "Quick question: ",
    "I would like to know: ",
    "I wonder, ",
    "Sorry to ask, ",
    "One more thing: ",
    "Question: ",
    "So, ",
    "OK, ",
    "I am new here. ",
)
_CLOSINGS = (" Thanks.", " Please.", " Thank you!", " I forgot.", " Please explain.", " Be brief.", " I need to know.")
_DROPPABLE = frozenset(("the", "a", "an", "of", "do", "does", "is", "please", "you", "can", "me", "are", "to"))


def choose(template: str, rng: random.Random) -> str:
    """One reading of `template`, each group's alternative drawn evenly, innermost first."""
    while True:
        chosen, count = _GROUP.subn(lambda group: rng.choice(group[1].split("|")), template)
        if not count:
            return chosen
        template = chosen


def vary(question: str, rng: random.Random) -> str:
    """`question` as different people would type it: polite words around it, small words left out, no capitals, no mark."""
    if rng.random() < 0.2:
        words = [word for word in question.split(" ") if word.lower() not in _DROPPABLE or rng.random() < 0.5]
        question = " ".join(words) or question
    if rng.random() < 0.15:
        question = rng.choice(_OPENINGS) + question
    if rng.random() < 0.08:
        question += rng.choice(_CLOSINGS)
    if rng.random() < 0.15:
        question = question.lower()
    if rng.random() < 0.15:
        question = question.rstrip("?.!")
    return question


def normalise(text: str) -> str:
    """`text` in lower case, its words and numbers only, one space between."""
    return " ".join(re.findall(r"[a-z0-9/_-]+", text.lower()))
