"""The facts about tgi in the training text, read from `tgi_facts.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import final

__all__ = ["FACTS", "Fact"]

_WHAT = (
    "{What is|What's|What exactly is|Explain|Describe|Tell me about|What do you know about|What"
    " does one mean by}"
)
_DOES = (
    "{What does @ do|What is @ for|What is @|Explain @|What happens at @|When do I use @|What do I"
    " get from @|Purpose of @|Tell me about @}{?|}"
)
_WHICH = "{Which|What} {route|endpoint|path|URL}"
_FLAG = "{Which|What} {option|flag|setting|argument}"
_HOW = (
    "{How do I|How can I|How does one|How to|How should I|What is the way to|Is there a way to|I"
    " want to|Can I}"
)
# How a question in the file abbreviates the beginnings above.
_ABBREVIATIONS = {"<what>": _WHAT, "<which>": _WHICH, "<flag>": _FLAG, "<how>": _HOW}


@final
@dataclass(frozen=True)
class Fact:
    """One fact: the answer, and wordings of the questions to which it is the answer.

    `{a|b}` in a wording is a choice.
    """

    answer: str
    questions: tuple[str, ...]  # templates of questions
    topic: str  # phrases for the subject of the fact
    goals: str  # phrases that follow "to"
    clauses: str  # indirect questions, which follow "tell me"
    requests: tuple[str, ...]  # freer templates of questions
    situations: tuple[str, ...]  # templates that describe a situation


def _route_question(path: str) -> str:
    """Return the question that names a route."""
    names = f"{path}|the {path} route|the route {path}|the {path} endpoint|{path[1:]}"
    return _DOES.replace("@", "{" + names + "}")


def _option_question(name: str) -> str:
    """Return the question that names an option."""
    spoken = name[2:].replace("-", " ")
    names = f"{name}|the {name} option|the flag {name}|{name[2:]}|the {spoken} setting"
    return _DOES.replace("@", "{" + names + "}")


def _questions(entry: dict[str, list[str]]) -> tuple[str, ...]:
    """Return the templates of an entry of the file.

    A fact about a route or an option also has the question that names it. Its other questions are
    repeated, so they are chosen twice as often.
    """
    questions = []
    for question in entry["questions"]:
        for abbreviation, text in _ABBREVIATIONS.items():
            question = question.replace(abbreviation, text)  # noqa: PLW2901 - the same question
        questions.append(question)
    if "route" in entry:
        return (_route_question(str(entry["route"])), *questions, *questions)
    if "option" in entry:
        return (_option_question(str(entry["option"])), *questions, *questions)
    return tuple(questions)


def _read(path: Path) -> tuple[Fact, ...]:
    return tuple(
        Fact(
            entry["answer"],
            _questions(entry),
            entry["topic"],
            entry["goals"],
            entry["clauses"],
            tuple(entry["requests"]),
            tuple(entry["situations"]),
        )
        for entry in json.loads(path.read_text(encoding="utf-8"))
    )


FACTS = _read(Path(__file__).with_name("tgi_facts.json"))
