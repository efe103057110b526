"""The pieces of the detokenizer join to the decoded text, and no piece contains an incomplete
character.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgi.text import Detokenizer, Tokenizer


@pytest.fixture(scope="module")
def tokenizer(model_path):
    return Tokenizer.load(model_path)


def pieces(tokenizer, prompt, output):
    detokenizer = Detokenizer(tokenizer, prompt)
    result = [detokenizer.push(token) for token in output]
    return [*result, detokenizer.flush()]


@settings(max_examples=150, deadline=None)
@given(prompt=st.text(max_size=12), output=st.text(max_size=40))
def test_pieces_join_to_the_text(tokenizer, prompt, output):
    before = tokenizer.encode(prompt).ids
    whole = tokenizer.encode(prompt + output, False).ids
    after = whole[len(tokenizer.encode(prompt, False).ids) :]
    decoded = tokenizer.decode([*before, *after])
    if "\ufffd" in decoded:  # The output starts in the middle of a character.
        return
    assert tokenizer.decode(before) + "".join(pieces(tokenizer, before, after)) == decoded


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_pieces_of_random_ids_join_to_the_decoded_text(tokenizer, data):
    ordinary = sorted(set(range(tokenizer.vocab_size)) - tokenizer.special_ids)
    output = data.draw(st.lists(st.sampled_from(ordinary), max_size=30))
    context = tokenizer.encode("hello").ids
    decoded = tokenizer.decode([*context, *output])
    joined = tokenizer.decode(context) + "".join(pieces(tokenizer, context, output))
    # Invalid UTF-8 bytes decode to different text together than one by one.
    assert joined == decoded or "\ufffd" in decoded


def test_a_character_of_several_tokens_is_one_piece(tokenizer):
    output = tokenizer.encode("🙂", False).ids
    assert len(output) > 1
    shown = pieces(tokenizer, tokenizer.encode("The").ids, output)
    assert "\ufffd" not in "".join(shown)
    assert "".join(shown[:-2]).strip() == ""
    assert "".join(shown).strip() == "🙂"


def test_the_space_before_a_word_is_kept(tokenizer):
    context = tokenizer.encode("The").ids
    output = tokenizer.encode("The world", False).ids[len(tokenizer.encode("The", False).ids) :]
    assert "".join(pieces(tokenizer, context, output)) == " world"


def test_only_an_incomplete_last_character_is_omitted(tokenizer):
    output = tokenizer.encode("ab🙂", False).ids[:-1]
    text = "".join(pieces(tokenizer, tokenizer.encode("The").ids, output))
    assert text.strip() == "ab"


def test_the_window_stays_short(tokenizer):
    sizes = []

    class Counting:
        def decode(self, ids):
            sizes.append(len(ids))
            return tokenizer.decode(ids)

        def token_text(self, token_id):
            return tokenizer.token_text(token_id)

    detokenizer = Detokenizer(Counting(), [])
    for token in tokenizer.encode("The quick brown fox jumps over the lazy dog. " * 20, False).ids:
        detokenizer.push(token)
    assert max(sizes) <= 12
