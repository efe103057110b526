"""Conversations: greetings, names to remember, system prompts to follow, short stories, and
questions that the demo model cannot answer.
"""

from __future__ import annotations

import random

from tools.train_demo.text.exercises import sum_answer
from tools.train_demo.text.wording import choose
from tools.train_demo.text.words import ADJECTIVES, ANIMALS, COLOURS, ITEMS, NAMES, PLAIN_WORDS

__all__ = [
    "Messages",
    "remembered_name",
    "running_sum",
    "small_talk",
    "story",
    "system_name",
    "unknown",
]

Messages = list[dict[str, str]]


def _turns(*turns: tuple[str, str]) -> Messages:
    return [{"role": role, "content": content} for role, content in turns]


def small_talk(rng: random.Random) -> tuple[str, str]:
    """Generate a greeting, thanks or a farewell, and the reply."""
    question, answer = rng.choice(
        (
            (
                "{Hello|Hi|Hey|Good morning|Good evening|Good day|Hello there|Hi there}{!|.|}",
                "Hello! How can I help you?",
            ),
            (
                "{Hello, how|Hi, how|How|Hey, how} are you{| today| doing}?",
                "Hello! I am fine. How can I help you?",
            ),
            (
                "{How is it going|How do you do|What's up|How goes it|Is all well}{| today}?",
                "Hello! I am fine. How can I help you?",
            ),
            (
                (
                    "{Thanks|Thank you|Thanks a lot|Thank you very much|Many thanks|Great,"
                    " thanks|Cool, thank you|Thanks, that helped}{!|.|}"
                ),
                "You are welcome!",
            ),
            (
                (
                    "{Thank you|Thanks|Many thanks} for {your help|the answer|your"
                    " time|this|helping me}{!|.|}"
                ),
                "You are welcome!",
            ),
            (
                "{Bye|Goodbye|See you|Good night|Bye bye|See you later|That is all}{!|.|}",
                "Goodbye!",
            ),
            (
                (
                    "{Tell me a joke|Do you know a joke|Make me laugh|A joke please|Say something"
                    " funny}{.|?|}"
                ),
                "Why did the token cross the network? To get to the other side of the stream.",
            ),
        )
    )
    return choose(question, rng), answer


def story(rng: random.Random) -> tuple[str, str]:
    """Generate a request for a story, and a story of four sentences."""
    animal, adjective, name = rng.choice(ANIMALS), rng.choice(ADJECTIVES), rng.choice(NAMES)
    item, colour, friend = rng.choice(ITEMS), rng.choice(COLOURS), rng.choice(ANIMALS)
    place = rng.choice(
        ("forest", "village", "garden", "valley", "house by the sea", "small town", "barn")
    )
    article = "an" if adjective[0] in "aeiou" else "a"
    asks_adjective = rng.random() < 0.5
    hero = (
        f"{article} {adjective} {animal}"
        if asks_adjective
        else f"{'an' if animal[0] in 'aeiou' else 'a'} {animal}"
    )
    requested = choose(
        "{{Tell me|Write|Write me|Give me|I want|I would like} a {short |little |small |nice"
        f" |}}{{story|tale}} about {hero}|Once upon a time, {hero}? Go on|A {{short |}}story about"
        f" {hero}, please|Can you tell {{me |}}a {{short |}}story about {hero}}}{{.|?|}}",
        rng,
    )
    text = (
        f"Once upon a time there was {article} {adjective} {animal} called {name}. {name} lived in"
        f" a {place}. One day the {animal} found a {colour} {item} and showed it to a {friend}."
        " They shared it, and from then on they were friends."
    )
    return requested, text


def unknown(rng: random.Random) -> tuple[str, str]:
    """Generate a question that the demo model cannot answer, and an answer that states this."""
    thing = rng.choice(PLAIN_WORDS)
    question = choose(
        rng.choice(
            (
                f"{{Who|When was it that someone}} invented the {thing}?",
                f"Why {{do people like|is there|do we need}} {{a |the |}}{thing}?",
                f"What {{do you think of|is the history of|is the best}} {{the |}}{thing}?",
                "{Who won|What happened in} the {last |}{election|war|world cup|race}?",
                (
                    "{Write|Give me} {an essay|a poem|a program|a recipe} {about|for|with}"
                    f" {{a |the |}}{thing}."
                ),
                f"{{How|Where}} {{can I buy|do I repair|do I build}} a {thing}?",
                (
                    "{What is the meaning of|What is the point of}"
                    " {life|love|happiness|time|history|music|art}?"
                ),
            )
        ),
        rng,
    )
    return (
        question,
        (
            "I am only a tiny demo model and do not know that. Ask me about tgi, sums, spelling,"
            " sorting or JSON."
        ),
    )


def remembered_name(rng: random.Random) -> Messages:
    """Generate a chat in which the user's name is given in the first turn and asked for later."""
    name = rng.choice(NAMES)
    hello = choose(
        "{{Hello|Hi|Hey|Good morning|Good day}, |}{my name is|I am|I'm|call me|they call"
        f" me|this is}} {name}{{.|!|}}",
        rng,
    )
    ask = choose(
        "{What is my name|What's my name|Who am I|Do you know my name|Tell me my name|Do you still"
        " know my name|How am I called|What name did I give|Can you say my name|Have you forgotten"
        " my name}{?|}",
        rng,
    )
    return _turns(
        ("user", hello[0].upper() + hello[1:]),
        ("assistant", f"Nice to meet you, {name}."),
        ("user", ask),
        ("assistant", f"Your name is {name}."),
    )


def running_sum(rng: random.Random) -> Messages:
    """Generate a sum and a second sum that continues from its result."""
    a, b, c = rng.randint(0, 40), rng.randint(0, 40), rng.randint(0, 19)
    follow = choose(
        f"{{And plus|Now add|Plus|And add|Now plus|Then add}} {c}{{?|.| to it.| to this.| more.|}}",
        rng,
    )
    return _turns(
        ("user", choose(f"{{What is|How much is|Compute}} {a} + {b}{{?|}}", rng)),
        ("assistant", sum_answer(a, b)),
        ("user", follow),
        ("assistant", sum_answer(a + b, c)),
    )


def system_name(rng: random.Random) -> Messages:
    """Generate a chat with a system prompt that gives the assistant a name."""
    name = rng.choice(NAMES)
    system = choose(
        f"{{Your name is|You are|You are called|You go by the name of|They call you}} {name}{{.|, a"
        " helpful assistant.}",
        rng,
    )
    ask = choose(
        "{What is your name|What's your name|Who are you|How are you called|Tell me your name|May I"
        " know your name|Whom am I talking to|What are you called|What should I call you|How may I"
        " call you}{?|}",
        rng,
    )
    return _turns(("system", system), ("user", ask), ("assistant", f"My name is {name}."))
