"""Extraction of JSON: a sentence, and a schema or a list of keys for the JSON answer."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from tools.train_demo.text.wording import choose
from tools.train_demo.text.words import (
    ANIMALS,
    CAPITALS,
    COLOURS,
    DAYS,
    FRUITS,
    ITEMS,
    NAMES,
    PLACES,
    PLAIN_WORDS,
)

__all__ = ["extraction"]

Values = dict[str, Any]
_CITIES = tuple(CAPITALS.values())


def _person(rng: random.Random) -> tuple[str, Values]:
    name, age, city = rng.choice(NAMES), rng.randint(1, 99), rng.choice(_CITIES)
    return rng.choice(
        (
            (
                f"{name} is {age} years old and lives in {city}.",
                {"name": name, "age": age, "city": city},
            ),
            (f"{name}, {age}, lives in {city}.", {"name": name, "age": age, "city": city}),
            (f"{name} is {age} years old.", {"name": name, "age": age}),
            (f"{name} lives in {city}.", {"name": name, "city": city}),
        )
    )


def _purchase(rng: random.Random) -> tuple[str, Values]:
    item, colour, price, name, count = (
        rng.choice(ITEMS),
        rng.choice(COLOURS),
        rng.randint(1, 99),
        rng.choice(NAMES),
        rng.randint(2, 30),
    )
    fruit = rng.choice(FRUITS)
    return rng.choice(
        (
            (
                f"{rng.choice(('A', 'The'))} {colour} {item} costs {price} dollars.",
                {"item": item, "colour": colour, "price": price},
            ),
            (f"The {item} costs {price} dollars.", {"item": item, "price": price}),
            (f"The {item} is {colour}.", {"item": item, "colour": colour}),
            (f"{name} bought {count} {fruit}.", {"name": name, "count": count, "fruit": fruit}),
            (
                f"{name} bought a {colour} {item} for {price} dollars.",
                {"name": name, "item": item, "colour": colour, "price": price},
            ),
        )
    )


def _place(rng: random.Random) -> tuple[str, Values]:
    place, opens, closes, day = (
        rng.choice(PLACES),
        rng.randint(5, 12),
        rng.randint(13, 23),
        rng.choice(DAYS),
    )
    is_open = rng.random() < 0.5
    city, hour = rng.choice(_CITIES), rng.randint(1, 24)
    return rng.choice(
        (
            (
                f"The {place} opens at {opens} and closes at {closes}.",
                {"place": place, "opens": opens, "closes": closes},
            ),
            (
                f"The {place} is {'open' if is_open else 'closed'} on {day}.",
                {"place": place, "open": is_open, "day": day},
            ),
            (f"The train to {city} leaves at {hour}.", {"city": city, "hour": hour}),
        )
    )


def _pet(rng: random.Random) -> tuple[str, Values]:
    owner, pet = rng.sample(NAMES, 2)
    animal = rng.choice(ANIMALS)
    article = "an" if animal[0] in "aeiou" else "a"
    return f"{owner} has {article} {animal} called {pet}.", {
        "owner": owner,
        "animal": animal,
        "pet_name": pet,
    }


def _record(rng: random.Random) -> tuple[str, Values]:
    """Generate a record with random keys, so that the model learns to copy keys."""
    keys = rng.sample(PLAIN_WORDS, rng.randint(1, 4))
    values = {
        key: rng.choice((rng.randint(0, 99), rng.choice(PLAIN_WORDS), rng.random() < 0.5))
        for key in keys
    }
    return (
        "; ".join(
            f"{key}: {json.dumps(value) if isinstance(value, bool) else value}"
            for key, value in values.items()
        )
        + ".",
        values,
    )


_SCENES: tuple[Callable[[random.Random], tuple[str, Values]], ...] = (
    _person,
    _person,
    _purchase,
    _purchase,
    _place,
    _pet,
    _record,
)
_TYPES = {str: "string", int: "integer", bool: "boolean"}


def extraction(rng: random.Random) -> tuple[str, str]:
    """Generate a sentence with a request for JSON, and the JSON answer with its keys in the
    requested order.
    """
    sentence, values = rng.choice(_SCENES)(rng)
    keys = rng.sample(
        list(values), rng.randint(1, len(values)) if rng.random() < 0.3 else len(values)
    )
    types = {key: _TYPES[type(values[key])] for key in keys}
    answer = json.dumps({key: values[key] for key in keys})
    if rng.random() < 0.55:
        schema: Values = {
            "type": "object",
            "properties": {key: {"type": kind} for key, kind in types.items()},
            "required": keys,
        }
        if rng.random() < 0.2:
            schema["additionalProperties"] = False
        request = choose(
            "{Answer in JSON with this schema|Answer in JSON with this schema|Use this JSON"
            " schema|Answer as JSON, schema|JSON schema}",
            rng,
        )
        request += ": " + json.dumps(schema)
    else:
        typed = rng.random() < 0.85
        listed = ", ".join(f"{key} ({kind})" if typed else key for key, kind in types.items())
        request = choose(
            "{Answer in JSON with the keys|Answer in JSON with the keys|Write JSON with the"
            " keys|Give me JSON with|As JSON with the keys}",
            rng,
        )
        request += f" {listed}."
    if rng.random() < 0.2:
        return f"{request}\n{sentence}", answer
    return f"{sentence}{rng.choice((chr(10), chr(10), ' '))}{request}", answer
