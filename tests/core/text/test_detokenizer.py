"""The pieces of the detokenizer join to the decoded text, and no piece contains an incomplete
character.
"""

import codecs

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.live_server import running_server
from tgi.testing.tiny_models import write_tiny_model
from tgi.text import Detokenizer, Tokenizer

from .conftest import KINDS, save


@pytest.fixture(scope="module")
def tokenizer(model_path):
    return Tokenizer.load(model_path)


@pytest.fixture(scope="module", params=["byte_level", "sentencepiece_like"])
def byte_tokenizer(request, tmp_path_factory):
    """A tokenizer with tokens that are parts of a character."""
    folder = tmp_path_factory.mktemp(request.param)
    return Tokenizer.load(save(KINDS[request.param](), folder))


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


def test_a_character_of_several_tokens_is_one_piece(byte_tokenizer):
    output = byte_tokenizer.encode("🙂", False).ids
    assert len(output) > 1
    shown = pieces(byte_tokenizer, byte_tokenizer.encode("The").ids, output)
    assert "\ufffd" not in "".join(shown)
    assert "".join(shown[:-2]).strip() == ""
    assert "".join(shown).strip() == "🙂"


def test_the_space_before_a_word_is_kept(tokenizer):
    context = tokenizer.encode("The").ids
    output = tokenizer.encode("The world", False).ids[len(tokenizer.encode("The", False).ids) :]
    assert "".join(pieces(tokenizer, context, output)) == " world"


def test_only_an_incomplete_last_character_is_omitted(byte_tokenizer):
    output = byte_tokenizer.encode("ab🙂", False).ids[:-1]
    text = "".join(pieces(byte_tokenizer, byte_tokenizer.encode("The").ids, output))
    assert text.strip() == "ab"


class Counting:
    """A tokenizer that counts its work: decoder calls and decoded tokens."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.bytes_of = tokenizer.bytes_of
        self.is_byte_level = tokenizer.is_byte_level
        self.sizes = []

    def decode(self, ids):
        self.sizes.append(len(ids))
        return self.tokenizer.decode(ids)

    def token_text(self, token_id):
        return self.tokenizer.token_text(token_id)


def work(tokenizer, output):
    """The number of calls and the sum of the window lengths that `output` takes."""
    counting = Counting(tokenizer)
    pieces(counting, [], output)
    return len(counting.sizes) + sum(counting.sizes), max(counting.sizes, default=0)


def samples(tokenizer):
    """Tokens with unusual texts: a part of a character, U+FFFD, no text, a space, and a word."""
    texts = ["🙂", "\ufffd", " ", "hello", "\x80"]
    ids = [number for text in texts for number in tokenizer.encode(text, False).ids]
    unknown = tokenizer.vocab_size + 1000
    return [number for number in dict.fromkeys(ids) if number not in tokenizer.special_ids] + [
        unknown
    ]


def test_the_work_per_token_does_not_grow_with_the_text(tokenizer):
    for token in samples(tokenizer):
        for output in ([token], [token, *tokenizer.encode("hello", False).ids]):
            short, longest = work(tokenizer, output * 100)
            long, longest_window = work(tokenizer, output * 1000)
            assert longest_window <= 12 and longest <= 12
            assert long <= 11 * short, token


def test_the_work_on_ordinary_text_is_limited(tokenizer):
    output = tokenizer.encode("The quick brown fox jumps over the lazy dog. " * 20, False).ids
    total, longest = work(tokenizer, output)
    assert longest <= 12
    assert total <= 12 * len(output)


def byte_tokens(tokenizer):
    """Return the ids of the tokens that represent a single byte. The keys are the bytes."""
    vocabulary = range(tokenizer.vocab_size)
    known = ((tokenizer.bytes_of(number), number) for number in vocabulary)
    return {data[0]: number for data, number in known if data is not None and len(data) == 1}


def lossy_text(tokenizer, ids):
    """The text of `ids`, where each run of bytes is decoded as UTF-8. The library's byte fallback
    shows a run that is not valid UTF-8 as one U+FFFD per byte, which depends on later bytes.
    """
    data = [tokenizer.bytes_of(number) for number in ids]
    if tokenizer.is_byte_level or None not in data:
        joined = b"".join(part or b"" for part in data)
        return codecs.getincrementaldecoder("utf-8")("replace").decode(joined)
    text, run, context = "", b"", []
    for number, part in zip(ids, data, strict=True):
        if part is None:
            text += run.decode(errors="replace")
            start = len(tokenizer.decode(context))
            text += tokenizer.decode([*context, number])[start:]
            run, context = b"", [number]
        else:
            run += part
            context = [number]
    return text + codecs.getincrementaldecoder("utf-8")("replace").decode(run)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_pieces_of_any_tokens_join_to_the_text_of_all_tokens(tokenizer, data):
    ordinary = sorted(set(range(tokenizer.vocab_size)) - tokenizer.special_ids)
    single_bytes = sorted(byte_tokens(tokenizer).values()) or ordinary
    number = st.sampled_from(ordinary) | st.sampled_from(single_bytes)
    output = data.draw(st.lists(number, min_size=1, max_size=30))
    context = tokenizer.encode("hello").ids
    expected = lossy_text(tokenizer, [*context, *output])
    joined = tokenizer.decode(context) + "".join(pieces(tokenizer, context, output))
    if not byte_tokens(tokenizer):
        assert joined == tokenizer.decode([*context, *output])
    elif tokenizer.is_byte_level:
        assert joined == expected
        # The library shows an incomplete last character as U+FFFD.
        assert tokenizer.decode([*context, *output]) in (joined, joined + "\ufffd")
    else:
        assert joined.removeprefix("<s>") == expected.removeprefix("<s>")


@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.text(max_size=6), max_size=6), bad=st.integers(0x80, 0xBF))
def test_pieces_of_valid_and_invalid_runs_join_to_the_decoded_text(byte_tokenizer, words, bad):
    single = byte_tokens(byte_tokenizer)
    output = []
    for word in words:
        output += [single[byte] for byte in word.encode()]
        output += byte_tokenizer.encode(" hello", False).ids
        output += [single[bad]] * 3
        output += byte_tokenizer.encode(" world", False).ids
    context = byte_tokenizer.encode("hello").ids
    joined = byte_tokenizer.decode(context) + "".join(pieces(byte_tokenizer, context, output))
    assert joined == byte_tokenizer.decode([*context, *output])


def test_at_most_three_bytes_wait(byte_tokenizer):
    for byte, token in byte_tokens(byte_tokenizer).items():
        detokenizer = Detokenizer(byte_tokenizer, byte_tokenizer.encode("The").ids)
        shown = [detokenizer.push(token) for _ in range(24)]
        is_lead = 0xC2 <= byte <= 0xF4
        assert len("".join(shown)) == (23 if is_lead else 24), hex(byte)
        assert all(shown[1:]), hex(byte)


def test_a_real_replacement_character_is_kept(tokenizer):
    output = tokenizer.encode("hello\ufffd", False).ids
    assert "".join(pieces(tokenizer, tokenizer.encode("The").ids, output)).strip() == (
        "hello\ufffd"
    )


def test_the_output_completes_a_character_of_the_prompt(byte_tokenizer):
    single = byte_tokens(byte_tokenizer)
    first, *rest = [single[byte] for byte in "🙂".encode()]
    shown = pieces(byte_tokenizer, [*byte_tokenizer.encode("The").ids, first], rest)
    assert shown == ["", "", "🙂", ""]


def test_a_bias_for_one_byte_gives_text(tmp_path):
    folder = tmp_path / "model"
    write_tiny_model(folder)
    token = byte_tokens(Tokenizer.load(folder))[0x80]
    body = {"model": "tgi", "prompt": "Hello", "max_tokens": 24, "logit_bias": {token: 100}}
    with running_server(folder, "reference", tmp_path / "log") as server:
        response = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json()
    assert response["choices"][0]["text"] == "\ufffd" * 24
