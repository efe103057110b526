"""Writes calls in all formats, and walks through the grammars of calls."""

import json

import numpy as np

from tests.core.text.output.samples import (
    CALLS,
    CALLS_END,
    NOW,
    TEMPLATES,
    TIMER,
    WEATHER,
    deepseek,
    deepseek_31,
    glm,
    harmony,
    hermes,
)
from tgi.grammar.compile import compile_constraint
from tgi.grammar.matcher import Matcher
from tgi.grammar.vocabulary import Vocabulary
from tgi.grammar.vocabulary_data import VocabularyData
from tgi.text.output import OutputFormats
from tgi.types import Guidance

NUM_BYTES = 256
EOS = NUM_BYTES


def granite(arguments, name="get_weather"):
    return f'<|tool_call|>[{{"name": "{name}", "arguments": {arguments}}}]'


def llama(arguments, name="get_weather"):
    return f'{{"name": "{name}", "parameters": {arguments}}}'


def mistral(arguments, name="get_weather"):
    return f'[TOOL_CALLS][{{"name": "{name}", "arguments": {arguments}}}]'


def glm_call(arguments, name="get_weather"):
    values = json.loads(arguments)
    return glm(name, **{k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()})


def tgi(arguments, name="get_weather"):
    rest = arguments[1:] if arguments == "{}" else f", {arguments[1:]}"
    return f'{{"function": {{"_name": "{name}"{rest}}}'


# A function that writes a call, and the text between two calls, or None if there is one call only.
FORMATS = {
    "hermes": (hermes, "\n"),
    "llama3_json": (llama, "; "),
    "mistral": (mistral, None),
    "mistral named": (
        lambda arguments, name="get_weather": f"[TOOL_CALLS]{name}[ARGS]{arguments}",
        "",
    ),
    "deepseek v3": (
        lambda arguments, name="get_weather": f"{CALLS}{deepseek(name, arguments)}{CALLS_END}",
        None,
    ),
    "deepseek v3.1": (
        lambda arguments, name="get_weather": f"{CALLS}{deepseek_31(name, arguments)}{CALLS_END}",
        None,
    ),
    "granite": (granite, None),
    "glm45": (glm_call, "\n"),
    "gpt_oss": (
        lambda arguments, name="get_weather": harmony(
            f"commentary to=functions.{name} <|constrain|>json", arguments, ""
        ),
        None,
    ),
    "tgi": (tgi, None),
}


class Walk:
    """Compiles the grammar of a format and walks through outputs. The vocabulary has one token per
    byte, EOS, and the markers of the format if they are special tokens.
    """

    def __init__(self, name, choice, *, is_parallel=True, is_special=False, tools=None):
        markers = OutputFormats.detect(TEMPLATES[name], {}).tool_format.markers
        self.markers = markers if is_special else ()
        self.ids = {marker: EOS + 1 + place for place, marker in enumerate(self.markers)}
        self.format = OutputFormats.detect(TEMPLATES[name], self.ids).tool_format
        self.tools = tools or (WEATHER, TIMER, NOW)
        tokens = [bytes([byte]) for byte in range(NUM_BYTES)]
        tokens += [b"<eos>", *(marker.encode() for marker in self.markers)]
        special = [EOS, *self.ids.values()]
        self.vocabulary = Vocabulary(VocabularyData(tokens, special, (EOS,), len(tokens)))
        constraint = self.format.constraint(self.tools, choice, is_parallel=is_parallel)
        self.start = Matcher(self.vocabulary, Guidance(compile_constraint(constraint)))

    def ids_of(self, text):
        while text:
            marker = next((m for m in self.markers if text.startswith(m)), None)
            if marker is None:
                yield from text[0].encode()
                text = text[1:]
            else:
                yield self.ids[marker]
                text = text[len(marker) :]

    def allows(self, text, *, is_whole=True):
        """Whether the grammar allows the text, and an end after it."""
        matcher = self.start.copy()
        words = np.zeros(self.vocabulary.mask_width, np.int32)
        for token in [*self.ids_of(text), *[EOS] * is_whole]:
            matcher.fill(words)
            if matcher.error or not words[token // 32] >> (token % 32) & 1:
                return False
            if token != EOS:
                matcher.accept(token)
        return True
