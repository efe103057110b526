"""Guided sequences of a model in real engine processes: with one and with two steps in flight, and
with masks that are sent with their step or after it.
"""

import asyncio
import json
import re

import jsonschema
import pytest

from tests.core.engine.engine_setup import SubmittedSequence
from tgi.backend import FEATURES, EngineConfig, RequestedLimits, SamplingParams
from tgi.engine.client import EngineClient
from tgi.engine.messages import Start
from tgi.grammar.compile import compile_constraint
from tgi.grammar.constraint import Constraint
from tgi.scheduler import Request, SchedulerConfig
from tgi.testing.tiny_models import write_tiny_model
from tgi.text import Tokenizer
from tgi.text.grammar_vocabulary import read_vocabulary
from tgi.types import FinishReason, Guidance

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "ages": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
        "kind": {"enum": ["cat", "dog", None]},
    },
    "required": ["name", "kind"],
    "additionalProperties": False,
}
PATTERN = r"(yes|no|[a-d]{2,5}), [0-9]{1,3}\."
GRAMMARS = [
    Constraint("json_schema", json.dumps(SCHEMA)),
    Constraint("regex", PATTERN),
    Constraint("choice", json.dumps(["first", "second"])),
    None,
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    return path, write_tiny_model(path, vocab_size=421)


async def generate(model, backend):
    """Return the texts of 12 sequences that run together."""
    path, spec = model
    tokenizer = Tokenizer.load(path)
    config = EngineConfig(backend, str(path), spec)
    limits = RequestedLimits(
        max_total_tokens=128,
        max_batch_size=8,
        features=tuple(sorted(FEATURES)),
        model_max_total_tokens=512,
    )
    client = EngineClient(Start(config, limits, SchedulerConfig()), lambda progress: None)
    await client.start()
    client.set_vocabulary(read_vocabulary(tokenizer, spec.vocab_size))
    results = await asyncio.gather(*(text(client, tokenizer, number) for number in range(12)))
    await client.close()
    return results


async def text(client, tokenizer, number):
    constraint = GRAMMARS[number % len(GRAMMARS)]
    guidance = None if constraint is None else Guidance(compile_constraint(constraint))
    request = Request(
        f"r{number}",
        list(range(4, 10 + number)),
        SamplingParams(greedy=number % 2 == 0, temperature=0.7),
        number,
        100,
        eos_token_ids=tokenizer.eos_token_ids,
        guidance=guidance,
    )
    outputs = [output async for output in SubmittedSequence(client, request)]
    tokens = [token for output in outputs for token in output.token_ids]
    assert outputs[-1].error is None, outputs[-1].error
    return tokenizer.decode(tokens, skip_special_tokens=True), outputs[-1].finish_reason


async def test_texts_are_valid_and_do_not_depend_on_the_backend(model):
    texts = {name: await generate(model, name) for name in ("complete", "complete-late", "static")}
    for number, (generated, reason) in enumerate(texts["complete"]):
        kind = number % len(GRAMMARS)
        if reason is FinishReason.LENGTH:
            assert kind in (0, 3), "a short text reached the maximum length"
        elif kind == 0:
            jsonschema.validate(json.loads(generated), SCHEMA)
        elif kind == 1:
            assert re.fullmatch(PATTERN, generated)
        elif kind == 2:
            assert generated in ("first", "second")
    assert texts["complete"] == texts["complete-late"] == texts["static"]
