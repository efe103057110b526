"""Prompts of a given length. Their words are random, so that no prefix cache contains them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, final

from tgi.bench.http_exchange import Endpoint
from tgi.bench.target import ask

__all__ = ["WORDS", "PromptMaker", "learn_tokenizer"]

_TEXT = (
    "time year people way day man thing life child world school state group country hand part place"
    " case week company system program question work government number night point home water room"
    " mother area money story fact month lot right study book eye job word business issue side kind"
    " head house service friend father power hour game line end member law car city name team"
    " minute idea body back parent face others level office door health person art war"
)
WORDS = tuple(_TEXT.split())
_REPEATS = 8
_MIN_EXACT_WORDS = 16
_PROBED_WORDS = 32  # number of words that are tested, with two requests per word
_NOT_FOUND = -1


@final
@dataclass(frozen=True)
class PromptMaker:
    """Creates prompts. `overhead` is the number of additional tokens per prompt, such as BOS."""

    words: tuple[str, ...] = WORDS
    tokens_per_word: float = 1.0
    overhead: int = 0
    is_exact: bool = False  # each word is one token of the server's tokenizer

    def prompt(self, rng: random.Random, num_tokens: int, shared: str = "") -> str:
        """A text of about `num_tokens` tokens. It begins with `shared`, another prompt of this
        object.
        """
        num_words = max(1, round((num_tokens - self.overhead) / self.tokens_per_word))
        prefix = shared.split()
        return " ".join([*prefix, *rng.choices(self.words, k=max(0, num_words - len(prefix)))])


async def learn_tokenizer(endpoint: Endpoint, model: str) -> PromptMaker:
    """Find words that are single tokens by requests to `/tokenize`. If the server has no such
    route, each word counts as one token.

    Raises OSError or TimeoutError.
    """
    total = await _count(endpoint, model, " ".join(WORDS))
    if total == _NOT_FOUND:
        return PromptMaker()
    alone = {word: await _count(endpoint, model, word) for word in WORDS[:_PROBED_WORDS]}
    shortest = min(alone.values())
    singles = []
    for word, few in alone.items():
        # The word is one token at the start of a prompt (without a space before the word), and one
        # token after a space.
        if (
            few == shortest
            and await _count(endpoint, model, " ".join([word] * (1 + _REPEATS))) == few + _REPEATS
        ):
            singles.append(word)
    if len(singles) >= _MIN_EXACT_WORDS:
        return PromptMaker(tuple(singles), 1.0, shortest - 1, is_exact=True)
    return PromptMaker(tokens_per_word=total / len(WORDS))


async def _count(endpoint: Endpoint, model: str, text: str) -> int:
    """The number of tokens of a text. Tries the request schemas of TGI, llama.cpp and vLLM."""
    bodies: tuple[dict[str, Any], ...] = (
        {"inputs": text},
        {"content": text, "add_special": True},
        {"model": model, "prompt": text},
    )
    for body in bodies:
        status, response = await ask(endpoint, "POST", "/tokenize", body)
        found = _counted(response) if status == 200 else _NOT_FOUND
        if found > 0:
            return found
    return _NOT_FOUND


def _counted(response: Any) -> int:  # noqa: ANN401 - JSON of any server
    if isinstance(response, list):
        return len(response)
    if isinstance(response, dict):
        tokens = response.get("tokens")
        return len(tokens) if isinstance(tokens, list) else int(response.get("count", _NOT_FOUND))
    return _NOT_FOUND
