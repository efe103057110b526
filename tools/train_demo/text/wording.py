"""Variation of the wording. A template such as `{What is|What's} the time{?|}` describes all
combinations of its alternatives. Groups may be nested.
"""

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
_CLOSINGS = (
    " Thanks.",
    " Please.",
    " Thank you!",
    " I forgot.",
    " Please explain.",
    " Be brief.",
    " I need to know.",
)
_FILLERS = (
    "actually", "in my case", "for our team", "at work", "on my machine", "in practice",
    "right now", "exactly", "by the way", "for a project", "with my program", "in general", "just",
    "maybe", "today", "in the company", "as a beginner", "in short", "really", "if possible",
    "for this", "somehow", "in detail", "here", "again", "for my users", "in production",
    "my friend asks", "we want to know", "then",
)  # fmt: skip
_CONTEXTS = (
    "I have a question. ", "We run a small service. ", "My colleague asked me this. ",
    "I am reading the manual. ", "There is a problem. ", "I am trying something. ",
    "Our customer wants to know. ", "I work on a program. ", "We are setting things up. ",
    "I have just begun. ", "My program needs this. ", "I could not find it. ", "It is for a test. ",
    "We use it every day. ", "I am writing a script. ",
)  # fmt: skip
_DROPPABLE = frozenset(
    ("the", "a", "an", "of", "do", "does", "is", "please", "you", "can", "me", "are", "to")
)


def choose(template: str, rng: random.Random) -> str:
    """Replace each group in `template` by one of its alternatives, which is chosen uniformly at
    random. Inner groups are replaced first.
    """
    while True:
        chosen, count = _GROUP.subn(lambda group: rng.choice(group[1].split("|")), template)
        if not count:
            return chosen
        template = chosen


def vary(question: str, rng: random.Random, *, may_lose_words: bool = False) -> str:
    """Vary `question` as if different people typed it: with words omitted or inserted, sentences
    before or after it, without capitals, or without the punctuation mark.

    With `may_lose_words`, any word of a longer question may be omitted, also an important one.
    """
    words = question.split(" ")
    if rng.random() < 0.12:
        words = [
            word for word in words if word.lower() not in _DROPPABLE or rng.random() < 0.5
        ] or words
    elif may_lose_words and rng.random() < 0.1 and len(words) > 4:
        words.pop(rng.randrange(len(words)))
    for _ in range(rng.choice((1, 1, 2)) if rng.random() < 0.15 else 0):
        words.insert(rng.randint(1, len(words)), rng.choice(_FILLERS))
    question = " ".join(words)
    if rng.random() < 0.12:
        question = rng.choice(_OPENINGS) + question
    elif rng.random() < 0.1:
        question = rng.choice(_CONTEXTS) + question
    if rng.random() < 0.06:
        question += rng.choice(_CLOSINGS)
    if rng.random() < 0.15:
        question = question.lower()
    if rng.random() < 0.15:
        question = question.rstrip("?.!")
    return question


def normalise(text: str) -> str:
    """Return the words and numbers in `text`, in lower case and separated by single spaces."""
    return " ".join(re.findall(r"[a-z0-9/_-]+", text.lower()))
