"""The training text: conversations that depend only on a seed and an index."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from typing import Any

from tools.train_demo.held_out import held_out
from tools.train_demo.text import dialogues, exercises, extraction, tool_calls, world
from tools.train_demo.text.dialogues import Messages
from tools.train_demo.text.tgi_facts import FACTS
from tools.train_demo.text.tgi_frames import CLAUSE_FRAMES, GOAL_FRAMES, TOPIC_FRAMES
from tools.train_demo.text.wording import choose, vary
from tools.train_demo.text.words import CAPITALS

__all__ = ["Conversation", "conversation", "conversations"]

QuestionAnswer = tuple[str, str]

_SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are tgi's demo model.",
    "Be brief.",
    "Answer the question.",
    "You are a friendly assistant. Answer in one sentence.",
    "You are a polite assistant.",
    "Help the user.",
)
_CAPITALS_PROMPTS = (
    "Answer in capital letters.",
    "Answer in upper case.",
    "Write everything in capitals.",
    "Use capital letters only.",
)


@dataclasses.dataclass(frozen=True)
class Conversation:
    """A conversation. `messages` are those of a chat request, including the assistant's answers. If
    `raw` is true, the text is the first question and answer without the chat template.
    """

    messages: Messages
    tools: list[dict[str, Any]] | None = None
    raw: bool = False


def _varied_tgi_fact(rng: random.Random) -> QuestionAnswer:
    fact = FACTS[rng.randrange(len(FACTS))]
    kind = rng.random()
    if kind < 0.2:
        template = rng.choice(fact.questions)
    elif kind < 0.32:
        template = rng.choice(TOPIC_FRAMES).replace("@", fact.topic)
    elif kind < 0.52:
        template = rng.choice(fact.situations)
    elif kind < 0.75:
        template = rng.choice(fact.requests)
    else:
        goals, clauses = fact.goals, fact.clauses
        template = (
            rng.choice(GOAL_FRAMES).replace("@", goals)
            if rng.random() < goals.count("|") / (goals + clauses).count("|")
            else rng.choice(CLAUSE_FRAMES).replace("@", clauses)
        )
    question = choose(template, rng)
    return vary(question[0].upper() + question[1:], rng, may_lose_words=True), fact.answer


def _varied_world_fact(rng: random.Random) -> QuestionAnswer:
    question, answer = world.world_fact(rng)
    return vary(question, rng), answer


def _varied_field_fact(rng: random.Random) -> QuestionAnswer:
    question, answer = world.field_fact(rng)
    return vary(question, rng), answer


# The generators of questions, each with its weight.
_QUESTIONS: tuple[tuple[Callable[[random.Random], QuestionAnswer], float], ...] = (
    (_varied_tgi_fact, 38),
    (exercises.addition, 8),
    (exercises.other_arithmetic, 1.5),
    (exercises.letters, 19),
    (exercises.counting, 11),
    (exercises.sorting, 21),
    (_varied_world_fact, 12),
    (_varied_field_fact, 3),
    (dialogues.small_talk, 1.5),
    (dialogues.story, 1),
    (dialogues.unknown, 1),
)
_DRAWS = [draw for draw, _ in _QUESTIONS]
_WEIGHTS = [weight for _, weight in _QUESTIONS]


def _is_held_out(question: str) -> bool:
    return held_out().has_question(question)


def _question(rng: random.Random) -> QuestionAnswer:
    """Generate a question and its answer."""
    return rng.choices(_DRAWS, _WEIGHTS)[0](rng)


def _turn(question: str, answer: str) -> Messages:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _single(rng: random.Random) -> Conversation:
    messages = _turn(*_question(rng))
    kind = rng.random()
    if kind < 0.1:
        return Conversation(messages, raw=True)
    if kind < 0.22:
        messages.insert(0, {"role": "system", "content": rng.choice(_SYSTEM_PROMPTS)})
    elif kind < 0.25 and len(messages[-1]["content"]) < 40:
        messages[-1]["content"] = messages[-1]["content"].upper()
        messages.insert(0, {"role": "system", "content": rng.choice(_CAPITALS_PROMPTS)})
    return Conversation(messages)


def _several(rng: random.Random) -> Conversation:
    """Generate a chat with unrelated questions. A few of these chats are long."""
    turns = rng.choice((2, 2, 2, 3, 3, 4)) if rng.random() < 0.95 else rng.randint(5, 16)
    messages: Messages = (
        [{"role": "system", "content": rng.choice(_SYSTEM_PROMPTS)}] if rng.random() < 0.4 else []
    )
    for _ in range(turns):
        messages += _turn(*_question(rng))
    return Conversation(messages)


def _follow_up(rng: random.Random) -> Conversation:
    """Generate a chat whose second question is only understandable after the first one."""
    (first, city), (second, other) = rng.sample(list(CAPITALS.items()), 2)
    ask = choose(f"{{What is|Tell me|Name}} the capital of {first}{{?|.}}", rng)
    follow = choose(
        f"{{And of|And|What about|And for|And that of|How about|And the capital of}} {second}?", rng
    )
    messages = [
        *_turn(ask, f"The capital of {first} is {city}."),
        *_turn(follow, f"The capital of {second} is {other}."),
    ]
    if rng.random() < 0.4:
        messages.insert(0, {"role": "system", "content": rng.choice(_SYSTEM_PROMPTS)})
    return Conversation(messages)


def _extraction(rng: random.Random) -> Conversation:
    return Conversation(_turn(*extraction.extraction(rng)))


def _tool_call(rng: random.Random) -> Conversation:
    tools, question, answer = tool_calls.tool_call(rng)
    return Conversation(_turn(question, answer), tools=tools)


def _memory(rng: random.Random) -> Conversation:
    return Conversation(
        rng.choice((dialogues.remembered_name, dialogues.system_name, dialogues.running_sum))(rng)
    )


_KINDS: tuple[tuple[Callable[[random.Random], Conversation], float], ...] = (
    (_single, 72),
    (_several, 7),
    (_follow_up, 1),
    (_extraction, 9),
    (_tool_call, 8),
    (_memory, 5),
)


def conversation(seed: int, index: int) -> Conversation:
    """Return conversation number `index` for `seed`. None of its questions is held out."""
    rng = random.Random(f"{seed}/{index}")
    kind = rng.choices([draw for draw, _ in _KINDS], [weight for _, weight in _KINDS])[0]
    while True:
        drawn = kind(rng)
        if not any(
            _is_held_out(message["content"])
            for message in drawn.messages
            if message["role"] == "user"
        ):
            return drawn


def conversations(seed: int, start: int, count: int) -> Iterator[Conversation]:
    """Yield the conversations with the indices `start` to `start + count - 1`."""
    return (conversation(seed, index) for index in range(start, start + count))
