"""Tool calls: available functions, a request, and the call that fulfils it in the form
`{"function": {"_name": ..., arguments}}`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from tools.train_demo.text.wording import choose
from tools.train_demo.text.words import ARTISTS, CAPITALS, DAYS, ITEMS, NAMES, PLAIN_WORDS, ROOMS

__all__ = ["NO_TOOL", "tool_call", "tool_definitions"]

Arguments = dict[str, Any]
NO_TOOL = "no_tool"
_TYPES = {str: "string", int: "integer"}


def _weather(rng: random.Random) -> tuple[str, Arguments]:
    city = rng.choice(list(CAPITALS.values()))
    frame = (
        f"{{What is the weather {{in|for}} {city}|How is the weather {{in|over}} {city}|Is it"
        f" {{raining|sunny|cold|warm|windy}} in {city}|Tell me the weather in {city}|Do I need {{an"
        f" umbrella|a coat|a hat|sunglasses}} in {city}|Will it {{rain|snow|be cold}} in"
        f" {city}|Weather in {city}|What will the weather be {{like |}}in {city}}}{{?|{'?'}|"
        " today?| tomorrow?|}"
    )
    return choose(frame, rng), {"city": city}


def _timer(rng: random.Random) -> tuple[str, Arguments]:
    minutes = rng.randint(1, 99)
    frame = (
        f"{{Set a timer {{for|of}} {minutes} minutes|Start a timer {{for|of}} {minutes}"
        f" minutes|Remind me in {minutes} minutes|Timer: {minutes} minutes|Please {{set|start}} a"
        f" {minutes} minute timer|Tell me when {minutes} minutes are over|Ring in {minutes}"
        f" minutes|Wake me up after {minutes} minutes}}{{.|}}"
    )
    return choose(frame, rng), {"minutes": minutes}


def _mail(rng: random.Random) -> tuple[str, Arguments]:
    name, subject = rng.choice(NAMES), rng.choice(PLAIN_WORDS)
    frame = (
        "{Send|Write|Send out|Please send|Please write} {a mail|an e-mail|an email|mail|a"
        f" message}} to {name} {{about|on}} {{the |}}{subject}{{.|}}~{{Mail|E-mail|Email}} {name}"
        f" about {{the |}}{subject}{{.|}}"
    )
    return choose(rng.choice(frame.split("~")), rng), {"recipient": name, "subject": subject}


def _light(rng: random.Random) -> tuple[str, Arguments]:
    room, state = rng.choice(ROOMS), rng.choice(("on", "off"))
    frame = (
        f"{{Turn|Switch|Please turn|Please switch}} {state} the {{light|lamp|lights}} in the"
        f" {room}{{.|}}~{{Turn|Switch|Please put}} the {{light|lamp|lights}} {state} in the"
        f" {room}{{.|}}~{{Turn|Switch}} the {room} {{light|lights|lamp}}"
        f" {state}{{.|}}~{{Light|Lights}} {state} in the {room}{{.|}}~{{Make it"
        f" {'bright' if state == 'on' else 'dark'} in}} the {room}{{.|}}"
    )
    return choose(rng.choice(frame.split("~")), rng), {"room": room, "state": state}


def _music(rng: random.Random) -> tuple[str, Arguments]:
    artist = rng.choice(ARTISTS)
    frame = (
        "{Play|Please play|I want to hear|Put on|Let me hear|I would like to hear} {some |music"
        f" by |a song by |a piece by |}}{artist}{{.|}}"
    )
    return choose(frame, rng), {"artist": artist}


def _table(rng: random.Random) -> tuple[str, Arguments]:
    restaurant, people = rng.choice(NAMES), rng.randint(2, 12)
    frame = (
        f"{{Book|Reserve|Please book|Get|Please reserve}} a table {{for {people} {{people|persons}}"
        f" at {restaurant}|at {restaurant} for {people}{{| people| persons}}}}{{.|}}"
    )
    return choose(frame, rng), {"restaurant": restaurant, "people": people}


def _add(rng: random.Random) -> tuple[str, Arguments]:
    a, b = rng.randint(0, 99), rng.randint(0, 99)
    frame = (
        f"{{Use the {{tool|function|calculator}} {{to add|and add|to sum}} {a} and {b}|With the"
        f" tool, add {a} and {b}|Call add {{with|for}} {a} and {b}|Let the calculator add {a} and"
        f" {b}}}{{.|}}"
    )
    return choose(frame, rng), {"a": a, "b": b}


def _translate(rng: random.Random) -> tuple[str, Arguments]:
    word, language = (
        rng.choice(PLAIN_WORDS),
        rng.choice(("German", "French", "Spanish", "Italian", "Dutch", "Polish", "Greek")),
    )
    frame = (
        f"{{Translate|Please translate}} {{the word |}}{word} {{to|into}} {language}{{.|}}~What is"
        f" {word} in {language}?~How do I say {word} in {language}?"
    )
    return choose(rng.choice(frame.split("~")), rng), {"word": word, "language": language}


def _calendar(rng: random.Random) -> tuple[str, Arguments]:
    event, day, hour = (
        rng.choice(("lunch", "meeting", "party", "dinner", "call", "concert", "class")),
        rng.choice(DAYS),
        rng.randint(6, 22),
    )
    frame = (
        f"{{Put|Add|Enter|Write}} {{a |the |}}{event} {{in|into|to}} {{my|the}} calendar on {day}"
        f" at {hour}{{.|}}~{{Plan|Schedule|Add}} {{a |the |}}{event} {{on|for}} {day} at"
        f" {hour}{{.|}}"
    )
    return choose(rng.choice(frame.split("~")), rng), {"event": event, "day": day, "hour": hour}


def _search(rng: random.Random) -> tuple[str, Arguments]:
    query = rng.choice(PLAIN_WORDS)
    return choose(
        f"{{Search|Search the web|Look|Please search}} for {{a |the |}}{query}{{.|}}", rng
    ), {"query": query}


def _price(rng: random.Random) -> tuple[str, Arguments]:
    item = rng.choice(ITEMS)
    return choose(
        f"{{What does a {item} cost|How much is a {item}|How much does a {item} cost|Find the price"
        f" of a {item}}}{{?|}}",
        rng,
    ), {"item": item}


def _time(rng: random.Random) -> tuple[str, Arguments]:
    city = rng.choice(list(CAPITALS.values()))
    return choose(
        f"{{What time is it in {city}|Which time is it in {city}|Tell me the time in {city}|What is"
        f" the time in {city}}}{{?|}}",
        rng,
    ), {"city": city}


_FUNCTIONS: dict[str, tuple[dict[str, type], Callable[[random.Random], tuple[str, Arguments]]]] = {
    "get_weather": ({"city": str}, _weather),
    "set_timer": ({"minutes": int}, _timer),
    "send_mail": ({"recipient": str, "subject": str}, _mail),
    "switch_light": ({"room": str, "state": str}, _light),
    "play_music": ({"artist": str}, _music),
    "book_table": ({"restaurant": str, "people": int}, _table),
    "add": ({"a": int, "b": int}, _add),
    "translate": ({"word": str, "language": str}, _translate),
    "add_event": ({"event": str, "day": str, "hour": int}, _calendar),
    "search": ({"query": str}, _search),
    "get_price": ({"item": str}, _price),
    "get_time": ({"city": str}, _time),
}


def tool_definitions(names: list[str]) -> list[dict[str, Any]]:
    """Return the functions in the format of a chat request."""
    found = []
    for name in names:
        parameters = (
            {key: {"type": _TYPES[kind]} for key, kind in _FUNCTIONS[name][0].items()}
            if name != NO_TOOL
            else {}
        )
        schema = (
            {"type": "object", "properties": parameters, "required": list(parameters)}
            if parameters
            else {"type": "object"}
        )
        found.append(
            {
                "type": "function",
                "function": {"name": name, "description": "", "parameters": schema},
            }
        )
    return found


def tool_call(rng: random.Random) -> tuple[list[dict[str, Any]], str, str]:
    """Generate the available functions, a request and the answer. The answer is a call, and it is a
    call of `no_tool` if no other function fits.
    """
    wanted = rng.choice(list(_FUNCTIONS))
    others = rng.sample(
        [name for name in _FUNCTIONS if name != wanted], rng.choice((0, 0, 1, 1, 2, 3))
    )
    question, arguments = _FUNCTIONS[wanted][1](rng)
    offers_none = rng.random() < 0.5
    fits = not offers_none or not others or rng.random() < 0.75
    names = [*others, wanted] if fits else others
    rng.shuffle(names)
    if offers_none:
        names.append(NO_TOOL)
    if not fits:
        return tool_definitions(names), question, json.dumps({"function": {"_name": NO_TOOL}})
    return (
        tool_definitions(names),
        question,
        json.dumps({"function": {"_name": wanted, **arguments}}),
    )
