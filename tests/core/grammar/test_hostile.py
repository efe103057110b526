"""Tests of grammars that would need much time or memory, or that are malformed. The data are in
hostile.json: `value` is the constraint, and `repeat` contains texts that are replaced by many
copies. A case with `error` is rejected with a message that contains this text. Any other case is
compiled, and each of its sequences ends or continues without an exception.

The limits count work, so that no test measures time.
"""

import json
from pathlib import Path
from random import Random

import pytest

from tests.core.grammar.walks import allowed_ids, byte_vocabulary, matcher_for
from tgi.grammar.constraint import GrammarError

CASES = json.loads((Path(__file__).parent / "hostile.json").read_text(encoding="utf-8"))
MAX_MESSAGE = 400


def text_of(case):
    """The value of a case, with its repeated texts."""
    text = case["value"]
    for name, (part, count) in case.get("repeat", {}).items():
        text = text.replace(f"@{name}@", part * count)
    for name, (pattern, count, separator) in case.get("list", {}).items():
        parts = (pattern.replace("@", str(number)) for number in range(count))
        text = text.replace(f"@{name}@", separator.join(parts))
    return text


def test_a_grammar_that_allows_an_empty_text_is_tried_with_a_text():
    """The end of the output is the first id of many vocabularies, for example of the demo model."""
    [case] = (case for case in CASES if case["name"] == "lark-optional-row")
    with pytest.raises(GrammarError, match=case["error"]):
        matcher_for(byte_vocabulary(eos=(0,)), case["kind"], text_of(case))


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_hostile_grammar(case, vocabulary, capfd):
    text = text_of(case)
    if "error" in case:
        with pytest.raises(GrammarError) as caught:
            matcher_for(vocabulary, case["kind"], text)
        assert case["error"] in str(caught.value)
        assert len(str(caught.value)) < MAX_MESSAGE
        assert "\n" not in str(caught.value)
    else:
        start = matcher_for(vocabulary, case["kind"], text)
        for seed in range(2):
            matcher, random = start.copy(), Random(seed)
            for _ in range(100):
                ids = allowed_ids(matcher, vocabulary)
                assert ids
                if matcher.error or matcher.is_finished:
                    break
                matcher.accept(random.choice(ids))
            assert len(matcher.error) < MAX_MESSAGE
    assert capfd.readouterr() == ("", "")
