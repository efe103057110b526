"""Exercises with a computed answer: sums, spelling, counting and sorting. A function with a random
generator as its only argument returns a question and its answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from tools.train_demo.held_out import held_out
from tools.train_demo.text.wording import choose
from tools.train_demo.text.words import (
    ADJECTIVES,
    ANIMALS,
    COLOURS,
    FRUITS,
    ITEMS,
    MORE_WORDS,
    NAMES,
    OPPOSITES,
    PLACES,
    PLAIN_WORDS,
    ROOMS,
)

__all__ = ["WORDS", "addition", "counting", "letters", "other_arithmetic", "sorting", "sum_answer"]

Value = TypeVar("Value")
WORDS = tuple(
    dict.fromkeys(
        [
            *PLAIN_WORDS,
            *MORE_WORDS,
            *ANIMALS,
            *ITEMS,
            *FRUITS,
            *PLACES,
            *ROOMS,
            *ADJECTIVES,
            *COLOURS,
            *OPPOSITES,
        ]
    )
)
"""The words in the exercises on spelling, counting and sorting."""


def _draw(
    rng: random.Random, draw: Callable[[], Value], is_held_out: Callable[[Value], bool]
) -> Value:
    """Draw a random value until the value is not held out."""
    while is_held_out(value := draw()):
        pass
    return value


def addition(rng: random.Random) -> tuple[str, str]:
    """Generate a sum of two numbers up to 99."""
    a, b = _draw(
        rng,
        lambda: (rng.randint(0, 99), rng.randint(0, 99)),
        lambda pair: held_out().has_pair(*pair),
    )
    if rng.random() < 0.15 and a > 1 and b > 1:
        name, things = (
            rng.choice(NAMES),
            rng.choice(("apples", "coins", "books", "pears", "stamps", "cards", "balls", "eggs")),
        )
        frames = (
            (
                f"{name} has {a} {things} and {{gets|finds|buys|is given}} {b} more. How many"
                f" {things} does {name} have{{| now| in all}}?"
            ),
            (
                f"I have {a} {things} and {{get|find|buy|take}} {b} more. How many {things} do I"
                " have{| now| in all}?"
            ),
            (
                f"There are {a} {things} here and {b} {{|more }}{things} there. How many {{are"
                " there|are they|is that}{| in all| together}?"
            ),
        )
    else:
        sum_of = (
            f"{{{a} + {b}|{a}+{b}|{a} + {b}|{a} plus {b}|the sum of {a} and {b}|{a} and {b}"
            " together}"
        )
        opening = (
            "{What is|What's|whats|Calculate|Compute|How much is|Tell me|Solve|Work out|Please"
            " compute|Please calculate}"
        )
        frames = (
            f"{opening} {sum_of}{{?|.|}}",
            f"{opening} {sum_of}{{?|.|}}",
            f"{{{a} + {b}|{a}+{b}|{a} plus {b}}}{{?| =| = ?|}}",
            f"{{Add|Can you add|Please add}} {{{a} and {b}|{a} to {b}|{a}, {b}}}{{.|?|}}",
            f"{{What|How much}} do {a} and {b} {{make|give|add up to}}{{| together}}?",
        )
    question = choose(rng.choice(frames), rng)
    return question, sum_answer(a, b)


def sum_answer(a: int, b: int) -> str:
    """Return the answer to a sum, computed from tens and ones. The model can memorize these smaller
    sums.
    """
    result = f"{a} + {b} = {a + b}."
    if a < 10 and b < 10:
        return result
    ones = f"{a % 10} + {b % 10} = {a % 10 + b % 10}"
    tens = f"{a - a % 10} + {b - b % 10} = {a - a % 10 + b - b % 10}"
    return f"{ones}, {tens}, so {result}"


def other_arithmetic(rng: random.Random) -> tuple[str, str]:
    """Generate a difference of numbers up to 99 or a product from the multiplication table."""
    if rng.random() < 0.6:
        a, b = sorted((rng.randint(0, 99), rng.randint(0, 99)), reverse=True)
        question = choose(
            f"{{{{What is|Compute|Calculate|How much is}} {{{a} - {b}|{a} minus"
            f" {b}}}{{?|}}|Subtract {b} from {a}.|What is the difference between {a} and {b}?|Take"
            f" {b} away from {a}.}}",
            rng,
        )
        return question, f"{a} - {b} = {a - b}."
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    question = choose(
        f"{{{{What is|Compute|Calculate|How much is}} {{{a} * {b}|{a} times {b}|{a} x"
        f" {b}}}{{?|}}|Multiply {a} {{by|and}} {b}.|What is the product of {a} and {b}?}}",
        rng,
    )
    return question, f"{a} * {b} = {a * b}."


def _word(rng: random.Random) -> str:
    """Return a word that is not held out. Half of the words are made of parts of two words, so that
    the model learns letters instead of whole words.
    """

    def draw() -> str:
        if rng.random() < 0.5:
            first, second = rng.choice(WORDS), rng.choice(WORDS)
            return (first[: rng.randint(1, 5)] + second[-rng.randint(2, 6) :])[: rng.randint(4, 10)]
        return rng.choice(WORDS)

    return _draw(
        rng, draw, lambda word: len(word) < 3 or any(known in word for known in held_out().words)
    )


def letters(rng: random.Random) -> tuple[str, str]:
    """Generate a question about a word: its spelling, its number of letters, how often a letter
    occurs, its letters in reverse order, or its first or last letter.
    """
    word = _word(rng)
    quoted = choose(f'{{"{word}"|"{word}"|the word {word}|the word "{word}"|{word}}}', rng)
    spelled = "-".join(word)
    kind = rng.random()
    if kind < 0.4:
        frame = (
            "{Spell @|Spell @ {for me|please|letter by letter}|Please spell @|Can you spell @|Could"
            " you spell @|How do you spell @|How is @ {spelled|spelt|written}|What is the spelling"
            " of @|Give me the letters of @|I want @ spelled|Write @ letter by letter}{.|?|}"
        )
        answer = f"{word} is spelled {spelled}."
    elif kind < 0.65:
        frame = (
            "{How many letters {are in|has|does @ have, and not|are there in} @|How many letters"
            " does @ have|Count the letters {of|in} @|What is the number of letters in @|How long"
            " is @|Number of letters in @}{?|.|}"
        ).replace("does @ have, and not", "are contained in")
        numbered = ", ".join(f"{letter} {index}" for index, letter in enumerate(word, 1))
        answer = f"{numbered}: {word} has {len(word)} letters."
    elif kind < 0.74:
        letter = (
            rng.choice(word) if rng.random() < 0.85 else rng.choice("abcdefghijklmnopqrstuvwxyz")
        )
        frame = (
            f"{{How {{often|many times}} {{is|does}} {{the letter {letter}|{letter}}} {{occur"
            f" in|appear in|in|come up in}} @|How many {{{letter}|letters {letter}|{letter}'s}}"
            f" {{are|are there}} in @|Count the {letter} in @|How {{often|many times}} does @"
            f" contain {letter}}}{{?|}}"
        )
        count = word.count(letter)
        marked = ", ".join(
            f"{c} {word[: index + 1].count(c)}" if c == letter else c
            for index, c in enumerate(word)
        )
        answer = f"{marked}: {letter} occurs {count} time{'' if count == 1 else 's'}."
    elif kind < 0.88:
        frame = (
            "{Write @ {backwards|in reverse|backward|from back to front}|Reverse @|Spell @"
            " backwards|What is @ {backwards|reversed}|Turn @ around}{.|?|}"
        )
        answer = f"{spelled} backwards is {'-'.join(reversed(word))}: {word[::-1]}."
    else:
        which = rng.choice(("first", "last"))
        frame = (
            f"{{What is|Which is|Tell me|Give me}} the {which} letter {{of|in}} @{{?|.|}}"
            if rng.random() < 0.7
            else f"With which letter does @ {'start' if which == 'first' else 'end'}?"
        )
        answer = f"The {which} letter of {word} is {word[0] if which == 'first' else word[-1]}."
    return choose(frame.replace("@", quoted), rng), answer


def counting(rng: random.Random) -> tuple[str, str]:
    """Generate a question on counting: up or down, the items of a list, or the number before or
    after another.
    """
    kind = rng.random()
    if kind < 0.45:
        step = rng.choice((1, 1, -1))

        def draw() -> tuple[int, int]:
            low, length = rng.randint(0, rng.choice((12, 90))), rng.randint(2, 9)
            return (low, low + length) if step > 0 else (low + length, low)

        first, last = _draw(rng, draw, lambda span: span in held_out().spans)
        numbers = range(first, last + step, step)
        word = (
            ""
            if step > 0 and rng.random() < 0.7
            else "up "
            if step > 0
            else rng.choice(("down ", "backwards ", "down "))
        )
        frame = (
            f"{{Count|Please count|Can you count|Could you count|Start counting}} {word}from"
            f" {first} {{to|up to|until}} {last}{{.|?|}}"
        )
        return choose(frame if step > 0 else frame.replace("|up to", ""), rng), ", ".join(
            map(str, numbers)
        )
    if kind < 0.75:
        pool = rng.choice((FRUITS, ITEMS, ANIMALS, PLAIN_WORDS, NAMES, WORDS))
        items = _draw(rng, lambda: rng.sample(pool, rng.randint(1, 7)), held_out().has_items)
        frame = (
            "{How many {things|items|words|entries} {are|are there} {in this list|here|in the"
            " list}|Count {the items|the words|these words|these things|these|the entries}|How many"
            " {items|words|things} does this list have}: "
        )
        number = len(items)
        numbered = ", ".join(f"{item} {index}" for index, item in enumerate(items, 1))
        end = rng.choice("?.") if rng.random() < 0.8 else ""
        return (
            choose(frame, rng) + ", ".join(items) + end,
            f"{numbered}: {number} item{'' if number == 1 else 's'}.",
        )
    side = rng.choice(("after", "before"))
    _, number = _draw(
        rng, lambda: (side, rng.randint(1, 98)), lambda pair: pair in held_out().numbers
    )
    frame = (
        f"{{What|Which}} {{number comes|comes|number is}} {{|right |directly }}{side} {number}?"
        if rng.random() < 0.6
        else (
            f"{{What|Which|Which number|What number}} follows {number}?"
            if side == "after"
            else f"What precedes {number}?"
        )
    )
    return choose(frame, rng), f"{number + (1 if side == 'after' else -1)} comes {side} {number}."


def _numbers(rng: random.Random, count: int) -> list[int]:
    """Return different numbers up to 99. In half of the calls, some of them are easily confused:
    they have the same tens digit, swapped digits, or one digit.
    """
    first = rng.randint(0, 99)
    swapped = first % 10 * 10 + first // 10
    tens = first - first % 10
    near = [swapped, first // 10, *rng.sample(range(tens, tens + 10), 2), rng.randint(0, 9)]
    drawn = [first, *rng.sample(near, rng.randint(1, 3))] if rng.random() < 0.5 else []
    others = rng.sample(range(100), count)
    if rng.random() < 0.15:
        drawn, others = [], rng.sample(range(10), count)
    numbers = list(dict.fromkeys([*drawn, *others]))[:count]
    rng.shuffle(numbers)
    return numbers


def sorting(rng: random.Random) -> tuple[str, str]:
    """Generate a list of numbers or words to sort, or a question for the largest or smallest
    number.
    """
    kind = rng.random()
    if kind < 0.42:
        numbers = _draw(
            rng, lambda: _numbers(rng, rng.choice((2, 3, 3, 3, 4, 4, 5))), held_out().has_items
        )
        descending = rng.random() < 0.25
        listed = ", ".join(map(str, numbers))
        up = (
            "{Sort|Order|Please sort|Can you sort|Arrange}{| the numbers| these numbers| these}{|"
            " in ascending order| from small to large}{: |: | }@{.|}|Put {these numbers|the"
            " numbers|these|@@} in {order|ascending order|the right order}: @{.|}"
        )
        down = (
            "{Sort|Order|Please sort|Arrange}{| the numbers| these numbers| these} {from large to"
            " small|in descending order|downwards}: @{.|}|Put {these numbers|the numbers|these} in"
            " descending order: @{.|}"
        )
        frame = rng.choice(_alternatives((down if descending else up).replace("|@@", "")))
        return choose(frame.replace("@", listed), rng), _sorted_numbers(
            sorted(numbers, reverse=descending)
        )
    return _sorted_words(rng) if kind < 0.76 else _extreme(rng)


def _sorted_words(rng: random.Random) -> tuple[str, str]:
    """Return a question for words in alphabetical order, and its answer."""
    pool = rng.choice((FRUITS, ITEMS, ANIMALS, PLAIN_WORDS, NAMES, WORDS, WORDS))

    def draw() -> list[str]:
        words = rng.sample(pool, 12)
        by_letter = {word[0]: word for word in words}
        return rng.sample(list(by_letter.values()), min(len(by_letter), rng.choice((2, 3, 3, 4))))

    words = _draw(rng, draw, held_out().has_items)
    frame = rng.choice(
        (
            (
                "{Sort|Order|Please sort|Can you sort|Arrange}{| the words| these words|"
                " these}{| alphabetically| by the alphabet| in alphabetical order}: @{.|}"
            ),
            (
                "Put {these words|the words|these|them} in {alphabetical order|order|the right"
                " order}: @{.|}"
            ),
        )
    )
    ordered = sorted(words)
    return (
        choose(frame.replace("@", ", ".join(words)), rng),
        f"{', '.join(word[0] for word in ordered)}: {', '.join(ordered)}.",
    )


def _extreme(rng: random.Random) -> tuple[str, str]:
    """Return a question for the larger or smaller of some numbers, and its answer."""
    numbers = _draw(rng, lambda: _numbers(rng, rng.choice((2, 2, 3))), held_out().has_items)
    largest = rng.random() < 0.5
    word = "{largest|biggest|greatest|highest}" if largest else "{smallest|lowest|least}"
    if len(numbers) == 2:
        word = "{larger|bigger|greater}" if largest else "{smaller|lower}"
    joined = ", ".join(map(str, numbers[:-1])) + rng.choice(
        (f" or {numbers[-1]}", f", {numbers[-1]}", f" and {numbers[-1]}")
    )
    frame = f"{{Which|What|Which number|Which one}} is {{|the }}{word}{{,|:}} {joined}?"
    value = max(numbers) if largest else min(numbers)
    adjective = (
        ("larger" if largest else "smaller")
        if len(numbers) == 2
        else ("the largest" if largest else "the smallest")
    )
    return choose(frame, rng), f"{value} is {adjective}."


def _sorted_numbers(ordered: list[int]) -> str:
    """Return the sorted numbers as text. If some have one digit and some two, the text first lists
    them with a leading zero in place of the missing tens digit.
    """
    answer = ", ".join(map(str, ordered)) + "."
    if min(ordered) < 10 <= max(ordered):
        return ", ".join(f"{number:02}" for number in ordered) + ", so " + answer
    return answer


def _alternatives(frame: str) -> list[str]:
    """Return the alternatives of a frame at its outermost level."""
    depth, parts = 0, [""]
    for character in frame:
        depth += (character == "{") - (character == "}")
        if character == "|" and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts
