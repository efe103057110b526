"""Questions about everyday life (capitals, colours, days, months, opposites, legs) and about terms
of machine learning.
"""

from __future__ import annotations

import random

from tools.train_demo.text.wording import choose
from tools.train_demo.text.words import CAPITALS, COLOURED, DAYS, LEGS, MONTHS, OPPOSITES

__all__ = ["DEEP_LEARNING", "field_fact", "world_fact"]

DEEP_LEARNING = (
    "Deep learning is a kind of machine learning. It trains neural networks with many layers on"
    " large amounts of data."
)

_FIELD = {
    "{Deep Learning|deep learning|Deep learning}": DEEP_LEARNING,
    "{Machine Learning|machine learning}": (
        "Machine learning lets computers learn rules from examples instead of being programmed by"
        " hand."
    ),
    "{a neural network|neural networks}": (
        "A neural network is a chain of layers of simple units whose weights are learned from data."
    ),
    "{a language model|a large language model|an LLM|language models}": (
        "A language model predicts the next token of a text. Repeating this writes new text."
    ),
    "{a token|tokens}": (
        "A token is a piece of text, often a word or a part of one, that a language model reads and"
        " writes."
    ),
    "{a transformer|the transformer}": (
        "A transformer is a neural network built on attention. Most language models are"
        " transformers."
    ),
    "{attention|self attention}": (
        "Attention lets each token look at the earlier tokens and take what matters from them."
    ),
    "{a GPU|GPUs}": (
        "A GPU is a processor with many small cores. It is good at the matrix products of neural"
        " networks."
    ),
    "{Python|the Python language}": "Python is a programming language that is easy to read.",
    "JSON": (
        "JSON is a text format for data made of objects, lists, strings, numbers, true, false and"
        " null."
    ),
    "HTTP": (
        "HTTP is the protocol of the web: a client sends a request and a server sends a response."
    ),
    "{server-sent events|SSE}": (
        "Server-sent events let a server send one event after another over an open HTTP response."
    ),
    "{artificial intelligence|AI}": (
        "Artificial intelligence is the art of making machines do what needs thought in people."
    ),
    "{inference|model inference}": (
        "Inference means to run a trained model, for example to generate text."
    ),
    "{a prompt|prompts}": (
        "A prompt is the text that a language model is asked to continue or to answer."
    ),
}


def field_fact(rng: random.Random) -> tuple[str, str]:
    """Generate a question about a term of machine learning. Deep learning is asked more often,
    because it is the usual example prompt.
    """
    names = list(_FIELD)
    name = names[0] if rng.random() < 0.3 else rng.choice(names)
    frame = (
        "{What is @|What is @|What's @|Explain @|Tell me about @|Define @|What does @ mean|Describe"
        " @|Can you explain @|What do you know about @}{?|?|.|}"
    )
    return choose(frame.replace("@", name), rng), _FIELD[name]


def world_fact(rng: random.Random) -> tuple[str, str]:
    """Generate a question about everyday life. A subject is chosen first."""
    return rng.choice((_capital, _capital, _colour, _day, _month, _opposite, _legs_or_number))(rng)


def _capital(rng: random.Random) -> tuple[str, str]:
    country, city = rng.choice(list(CAPITALS.items()))
    if rng.random() < 0.65:
        frame = (
            "{What is|What's|Name|Tell me|Give me|Which city is|Do you know|I need|Say} {the"
            f" capital of {country}|{country}'s capital|the capital city of {country}|the capital"
            f" of {country}}}{{?|.|}}~{{Which|What}} {{city|town}} is {{the capital of"
            f" {country}|{country}'s capital|capital of {country}}}?~{{Which|What}} {{capital does"
            f" {country} have|is the capital {{of|in}} {country}|capital has {country}}}?~{country}"
            " has {what|which} {capital|capital city}?~{How is|What is} the capital {city"
            f" |}}of {country} {{called|named}}?~{{I live in|I travel to|I am in|I go to|I visit}}"
            f" {country}. What is {{its|the}} capital{{| city| there}}?"
        )
        return choose(rng.choice(frame.split("~")), rng), f"The capital of {country} is {city}."
    frame = (
        f"{{Which|What}} country {{has the capital {city}|has {city} as its capital|is {city} the"
        f" capital of}}?~{city} is the capital of {{which|what}} {{country|land|state}}?~Of"
        f" {{which|what}} {{country|land|state}} is {city} the capital?~{{In which country is|Where"
        f" is|In what country lies|Where do I find}} {city}?"
    )
    return choose(rng.choice(frame.split("~")), rng), f"{city} is the capital of {country}."


def _colour(rng: random.Random) -> tuple[str, str]:
    thing, colour = rng.choice(list(COLOURED.items()))
    noun = thing.split(" ", 1)[-1] if " " in thing else thing
    article = thing[: -len(noun)]
    adjective = rng.choice(("", "", "", "ripe ", "fresh ", "clear ", "typical "))
    said = rng.choice(
        (
            thing,
            article.replace("an ", "a ") + adjective + noun if adjective and article else thing,
            thing,
        )
    )
    frame = (
        f"{{What|Which}} {{colour|color}} {{is|has|does}} {said}{{?|}}~{{What is|Tell me|What's|Do"
        f" you know|Name}} the {{colour|color}} of {said}{{?|}}~{{Of what|Of which}}"
        f" {{colour|color}} is {said}?~{said} {{has|is|is of}} {{which|what}}"
        f" {{colour|color}}?~What {{colour|color}} {{would|does|should}} {said} have?~Looking at"
        f" {said}, {{what|which}} {{colour|color}} {{is it|do I see}}?"
    )
    question = choose(rng.choice(frame.split("~")), rng).replace(
        "does " + said + "?", "does " + said + " have?"
    )
    return question[0].upper() + question[1:], f"{thing[0].upper()}{thing[1:]} is {colour}."


def _day(rng: random.Random) -> tuple[str, str]:
    return _neighbour(rng, DAYS, "day", ("tomorrow", "yesterday"))


def _month(rng: random.Random) -> tuple[str, str]:
    return _neighbour(rng, MONTHS, "month", ("next month", "last month"))


def _neighbour(
    rng: random.Random, cycle: tuple[str, ...], unit: str, relative: tuple[str, str]
) -> tuple[str, str]:
    index = rng.randrange(len(cycle))
    side = rng.choice(("after", "before"))
    other = cycle[(index + (1 if side == "after" else -1)) % len(cycle)]
    this = cycle[index]
    verbs = (
        "follows|comes after|comes right after|is after|is right after|comes next after"
        if side == "after"
        else "comes before|precedes|is before|comes right before|is right before|comes just before"
    )
    inverse = f"{this} comes {'before' if side == 'after' else 'after'}"
    now = "Today is" if unit == "day" else "This month is"
    soon = relative[0] if side == "after" else relative[1]
    frame = (
        f"{{What|Which}} {unit} {{{verbs}}} {this}?~{{{side.capitalize()}}} {this} comes"
        f" {{which|what}} {unit}?~{{Name|Tell me|Give me}} the {unit} {{{side}|that"
        f" {verbs.split('|', maxsplit=1)[0]}|that comes {side}|right {side}}} {this}.~{now} {this}."
        f" {{What|Which}} {unit} {{is|was|will be|comes}} {soon}?~If {{today|it}} is {this},"
        f" {{what|which}} {unit} {{is|was|will be}} {soon}?~{inverse} {{which|what}}"
        f" {unit}?~{{What|Which}} {unit} is it {{the {unit} |one {unit} |}}{side} {this}?"
    )
    return choose(rng.choice(frame.split("~")), rng), f"{other} comes {side} {this}."


def _opposite(rng: random.Random) -> tuple[str, str]:
    pair = list(rng.choice(list(OPPOSITES.items())))
    rng.shuffle(pair)
    word, other = pair
    said = choose(f'{{{word}|{word}|"{word}"|the word {word}}}', rng)
    frame = (
        "{What is|What's|Tell me|Name|Which is|Say} the {opposite|contrary} of"
        f" {said}{{?|}}~{{Which|What}} word {{is the opposite of|is opposite to|is the contrary"
        f" of}} {said}?~{{What|Which word}} is not {word} but the {{opposite|contrary}}?~Opposite"
        f" of {said}{{?|}}~{{Find|I need|I want|Give}} the opposite of {said}."
    )
    return choose(rng.choice(frame.split("~")), rng), f"The opposite of {word} is {other}."


def _legs_or_number(rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.6:
        animal, legs = rng.choice(list(LEGS.items()))
        article = "an" if animal[0] in "aeiou" else "a"
        frame = (
            f"{{How many legs {{does|has}} {article} {animal}{{ have|}}|{{What is|Tell me}} the"
            f" number of legs of {article} {animal}|How many legs do {animal}s have|Number of legs"
            f" of {article} {animal}|{article.capitalize()} {animal} stands on how many legs}}?"
        )
        return choose(frame, rng), f"{article.capitalize()} {animal} has {legs} legs."
    question, answer = rng.choice(
        (
            (
                (
                    "How many {days are in|days are there in|days has|days make|days make up}"
                    " {a|one|the} week?"
                ),
                "A week has 7 days.",
            ),
            ("{Tell me the|What is the} number of days {in|of} a week{.|?}", "A week has 7 days."),
            (
                "How many months {are in|are there in|has|make} {a|one|the} year?",
                "A year has 12 months.",
            ),
            (
                "{Tell me the|What is the} number of months {in|of} a year{.|?}",
                "A year has 12 months.",
            ),
            ("{A|One} year {has|is} how many {months|months long}?", "A year has 12 months."),
            ("{A|One} day {has|is} how many {hours|hours long}?", "A day has 24 hours."),
            ("How many hours {are in|are there in|has|make} {a|one} day?", "A day has 24 hours."),
            (
                "How many minutes {are in|are there in|has|make} {an|one} hour?",
                "An hour has 60 minutes.",
            ),
            (
                "How many seconds {are in|are there in|has|make} {a|one} minute?",
                "A minute has 60 seconds.",
            ),
        )
    )
    return choose(question, rng), answer
