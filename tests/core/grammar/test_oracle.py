"""Compares random texts that the masks allow with other validators: `jsonschema` and `re`."""

import json
import re
from random import Random

import jsonschema
import pytest

from tests.core.grammar import generated
from tests.core.grammar.walks import (
    byte_vocabulary,
    demo_vocabulary,
    matcher_for,
    random_text,
    sentencepiece_vocabulary,
)
from tgi.grammar.constraint import GrammarError

VOCABULARIES = {
    "bytes": byte_vocabulary,
    "demo": demo_vocabulary,
    "sentencepiece": sentencepiece_vocabulary,
}


@pytest.fixture(params=VOCABULARIES, scope="module")
def any_vocabulary(request):
    return VOCABULARIES[request.param]()


def check_schemas(vocabulary, num_schemas, num_texts):
    """Returns the numbers of complete texts and of rejected schemas."""
    num_complete = num_rejected = 0
    for seed in range(num_schemas):
        schema = generated.root(Random(seed))
        try:
            matcher = matcher_for(vocabulary, "json_schema", json.dumps(schema))
        except GrammarError as error:
            assert "disjoint" in str(error) or "nsatisfiable" in str(error), (error, schema)
            num_rejected += 1
            continue
        validator = jsonschema.Draft202012Validator(schema)
        for number in range(num_texts):
            text = random_text(matcher, vocabulary, Random(1000 * seed + number))
            if text is None:
                continue
            num_complete += 1
            assert not re.search(r"\s\s|\n", re.sub(r'"(\\.|[^"\\])*"', "text", text)), text
            errors = list(validator.iter_errors(json.loads(text)))
            assert not errors, (text, schema, errors[0].message)
    return num_complete, num_rejected


def check_patterns(vocabulary, num_patterns, num_texts):
    """Returns the number of complete texts."""
    num_complete = 0
    for seed in range(num_patterns):
        pattern = generated.pattern(Random(seed))
        anchored = Random(seed).choice(["{}", "^{}$"]).format(f"(?:{pattern})")
        matcher = matcher_for(vocabulary, "regex", anchored)
        for number in range(num_texts):
            text = random_text(matcher, vocabulary, Random(1000 * seed + number))
            if text is not None:
                num_complete += 1
                assert re.fullmatch(pattern, text), (pattern, text)
    return num_complete


def test_complete_texts_are_valid(any_vocabulary):
    num_complete, num_rejected = check_schemas(any_vocabulary, 40, 3)
    assert num_complete > 80
    assert num_rejected < 8


def test_complete_texts_match_the_regular_expression(any_vocabulary):
    assert check_patterns(any_vocabulary, 40, 3) > 80


@pytest.mark.long
def test_complete_texts_of_many_schemas_are_valid(any_vocabulary):
    num_complete, num_rejected = check_schemas(any_vocabulary, 500, 20)
    assert num_complete > 7000
    assert num_rejected < 60


@pytest.mark.long
def test_complete_texts_match_many_regular_expressions(any_vocabulary):
    assert check_patterns(any_vocabulary, 500, 20) > 7000
