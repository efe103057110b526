"""Many distinct grammars: the memory of the process stays flat after the first grammars."""

import json
from random import Random

import pytest

from tests.core.grammar import generated
from tests.core.grammar.walks import allowed_ids
from tgi.grammar.compile import compile_constraint
from tgi.grammar.constraint import Constraint, GrammarError
from tgi.grammar.pool import MatcherPool
from tgi.testing.conformance.process_memory import process_bytes
from tgi.types import Guidance

MAX_GROWTH = 20 << 20  # bytes


def run_grammar(pool, vocabulary, seed):
    """Generate 40 tokens of one grammar."""
    random = Random(seed)
    schema = generated.root(random)
    schema["properties"][f"unique {seed}"] = {"type": "integer"}
    grammar = compile_constraint(Constraint("json_schema", json.dumps(schema)))
    try:
        matcher = pool.request(Guidance(grammar)).result(60)
    except GrammarError:
        return
    for _ in range(40):
        if matcher.is_finished:
            break
        matcher.accept(random.choice(allowed_ids(matcher, vocabulary)))
    assert not matcher.error


def check_memory(vocabulary, num_first, num_grammars):
    pool = MatcherPool(vocabulary, num_threads=1)
    for seed in range(num_first):
        run_grammar(pool, vocabulary, seed)
    before = process_bytes()
    for seed in range(num_first, num_grammars):
        run_grammar(pool, vocabulary, seed)
    growth = process_bytes() - before
    assert pool.num_compiled == num_grammars
    pool.close()
    assert growth < MAX_GROWTH, growth


def test_memory_is_flat(vocabulary):
    check_memory(vocabulary, 300, 900)


@pytest.mark.long
def test_memory_is_flat_for_many_grammars(vocabulary):
    check_memory(vocabulary, 500, 10_000)
