"""Tokenizers that are built from the metadata of GGUF files."""

import json
from itertools import pairwise

import numpy as np
import pytest
import tokenizers

from tests.core.checkpoints.gguf_twins import write_twins
from tests.core.checkpoints.gguf_writer import GgufFile, Tensor
from tgi.checkpoints.gguf.container import read_gguf
from tgi.checkpoints.gguf.model_folder import gguf_model_folder
from tgi.checkpoints.gguf.pre_tokenizers import PRE_TOKENIZERS
from tgi.checkpoints.gguf.tokenizer import tokenizer_of
from tgi.errors import ModelError
from tgi.text import ChatTemplate, Tokenizer

SPACE = "\u2581"


def pieces(seed=3):
    """A vocabulary of SentencePiece with random scores. Returns (tokens, types, scores)."""
    random = np.random.default_rng(seed)
    tokens = ["<unk>", "<s>", "</s>", "<x>", "  ", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [2, 3, 3, 4, 4, *[6] * 256]
    letters = ["a", "b", "c", SPACE]
    words = {"".join(random.choice(letters, random.integers(2, 5))) for _ in range(60)}
    tokens += letters + sorted(words)
    types += [1] * (len(tokens) - len(types))
    scores = random.permutation(len(tokens)).astype(float) * -1.0
    return tokens, types, scores.tolist()


def piece_keys(**changes):
    tokens, types, scores = pieces()
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": scores,
    } | {f"tokenizer.ggml.{key}": item for key, item in changes.items()}


def tokenizer(tmp_path, keys):
    content, _ = tokenizer_of(read_gguf(GgufFile(keys).write(tmp_path / "model.gguf")))
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def merged(text, vocabulary, scores):
    """Merge the adjacent pieces whose union has the highest score, until there are none."""
    parts = list(text)
    while True:
        found = [
            (scores[vocabulary[left + right]], -place)
            for place, (left, right) in enumerate(pairwise(parts))
            if left + right in vocabulary
        ]
        if not found:
            return parts
        place = -max(found)[1]
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


def expected_ids(text, *, prefix):
    """The ids of a text without added tokens, by the algorithm of llama.cpp."""
    tokens, types, scores = pieces()
    own = {t: n for n, (t, kind) in enumerate(zip(tokens, types, strict=True)) if kind == 1}
    ids = []
    for part in merged((SPACE if prefix and text else "") + text.replace(" ", SPACE), own, scores):
        ids += [own[part]] if part in own else [tokens.index(f"<0x{b:02X}>") for b in part.encode()]
    return ids


@pytest.mark.parametrize("prefix", [True, False])
def test_pieces_are_merged_by_their_scores(tmp_path, prefix):
    made = tokenizer(tmp_path, piece_keys(add_space_prefix=prefix, add_bos_token=False))
    random = np.random.default_rng(8)
    texts = ["".join(random.choice(list("abc \u00e9"), 30)) for _ in range(60)]
    for text in {text.replace("  ", " b") for text in texts}:  # "  " is a user-defined token
        assert made.encode(text).ids == expected_ids(text, prefix=prefix), text
        assert made.decode(made.encode(text).ids) == text


def test_added_tokens_are_recognized_first(tmp_path):
    made = tokenizer(tmp_path, piece_keys(add_bos_token=False, add_space_prefix=False))
    ab = made.encode("ab").ids
    assert made.encode("ab<x>ab  ab</s>").ids == [*ab, 3, *ab, 4, *ab, 2]
    assert made.decode([3, 4, 2]) == "<x>  "  # control tokens are special
    # With a prefix, each part of the text begins with a space, as in llama.cpp.
    with_prefix = tokenizer(tmp_path, piece_keys(add_bos_token=False))
    spaced = with_prefix.encode("ab").ids
    assert with_prefix.encode("ab<x>ab").ids == [*spaced, 3, *spaced]


@pytest.mark.parametrize(
    ("changes", "before", "after"),
    [
        ({}, [1], []),
        ({"bos_token_id": 3}, [3], []),
        ({"add_bos_token": False}, [], []),
        ({"add_eos_token": True}, [1], [2]),
    ],
)
def test_special_tokens_are_added(tmp_path, changes, before, after):
    made = tokenizer(tmp_path, piece_keys(**changes))
    own = made.encode("ab", add_special_tokens=False).ids
    assert made.encode("ab").ids == before + own + after


def test_phi3_removes_spaces_after_added_tokens(tmp_path):
    keys = piece_keys(add_bos_token=False) | {"general.name": "Phi-3 Mini"}
    made = tokenizer(tmp_path, keys)
    assert made.encode("<x> \n ab").ids == made.encode("<x>ab").ids
    assert made.encode("<s> ab").ids != made.encode("<s>ab").ids


def test_a_byte_level_tokenizer_has_the_ids_of_the_original(tmp_path):
    path, twin = write_twins(tmp_path, "llama")
    folder = gguf_model_folder(path, str(tmp_path / "cache"))
    made, original = Tokenizer.load(folder), Tokenizer.load(twin)
    for text in ("The quick brown fox", " a\n\n\tb  c 12345", "L\u00f6we \U0001f600", "a</s>b"):
        assert made.encode(text).ids == original.encode(text).ids
        assert made.decode(made.encode(text).ids) == text
    assert made.eos_token_ids == original.eos_token_ids == (1,)
    assert made.special_tokens == original.special_tokens
    assert made.special_ids == original.special_ids


SAMPLE = "It's DON'T  12345 x_y/\n\n z"
WORDS = {
    "gpt-2": ["It", "'s", " DON", "'", "T", " ", " 12345", " x", "_", "y", "/", "\n\n", " z"],
    "smollm": [
        *("It", "'s", " DON", "'", "T", "  ", "1", "2", "3", "4", "5", " x", "_", "y", "/"),
        *("\n\n", " z"),
    ],
    "llama-bpe": ["It", "'s", " DON", "'T", " ", " ", "123", "45", " x", "_y", "/\n\n", " z"],
    "qwen2": ["It", "'s", " DON", "'T", " ", " ", *"12345", " x", "_y", "/\n\n", " z"],
    "tekken": ["It", "'s", " DON", "'T", " ", " ", *"12345", " x", "_y", "/\n\n", " z"],
    "gpt-4o": ["It's", " DON'T", " ", " ", "123", "45", " x", "_y", "/\n\n", " z"],
}


@pytest.mark.parametrize("name", WORDS)
def test_words_of_a_pre_tokenizer(name):
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    content = {"version": "1.0", "pre_tokenizer": PRE_TOKENIZERS[name].json, "model": empty}
    made = tokenizers.Tokenizer.from_str(json.dumps(content))
    spans = [span for _, span in made.pre_tokenizer.pre_tokenize_str(SAMPLE)]
    assert [SAMPLE[start:end] for start, end in spans] == WORDS[name]


def test_each_pre_tokenizer_can_be_loaded(tmp_path):
    path, _ = write_twins(tmp_path, "llama")
    whole = read_gguf(path)
    for name in PRE_TOKENIZERS:
        keys = dict(whole.metadata._values) | {"tokenizer.ggml.pre": name}
        keys["tokenizer.ggml.token_type"] = keys["tokenizer.ggml.token_type"].tolist()
        made = tokenizer(tmp_path, keys)
        assert made.decode(made.encode("A river 12").ids) == "A river 12"


def test_template_and_ends_of_a_turn(tmp_path):
    tokens, types, scores = pieces()
    keys = piece_keys(
        tokens=[*tokens, "<|im_end|>", "<end_of_turn>", "<|eot_id|>"],
        token_type=[*types, 3, 1, 3],
        scores=[*scores, 0.0, 0.0, 0.0],
        eos_token_id=2,
        eot_token_id=3,
    )
    keys["tokenizer.chat_template"] = "{{ messages }}"
    path, _ = write_twins(tmp_path, "llama", changes=keys)
    folder = gguf_model_folder(path, str(tmp_path / "cache"))
    # The end of the text, the named end of a turn, and control tokens with known texts.
    count = len(tokens)
    assert Tokenizer.load(folder).eos_token_ids == (2, 3, count, count + 2)
    assert ChatTemplate.load(folder).sources == {"default": "{{ messages }}"}
    several = keys | {
        "tokenizer.chat_templates": ["tool_use"],
        "tokenizer.chat_template.tool_use": "{{ tools }}",
    }
    other = tmp_path / "other"
    other.mkdir()
    path, _ = write_twins(other, "llama", changes=several)
    config = json.loads(
        (gguf_model_folder(path, str(other / "cache")) / "tokenizer_config.json").read_text()
    )
    named = {entry["name"]: entry["template"] for entry in config["chat_template"]}
    assert named == {"default": "{{ messages }}", "tool_use": "{{ tools }}"}


def test_repeated_and_empty_tokens_keep_their_ids(tmp_path):
    tokens, types, scores = pieces()
    keys = piece_keys(
        tokens=[*tokens, "a", "", "abc"],
        token_type=[*types, 1, 5, 1],
        scores=[*scores, 0.0, 0.0, 1.0],
    )
    made = tokenizer(tmp_path, keys)
    assert made.get_vocab_size() == len(tokens) + 3
    assert made.token_to_id("a") == tokens.index("a")
    assert made.token_to_id("abc") in (
        tokens.index("abc") if "abc" in tokens else -1,
        len(tokens) + 2,
    )


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({}, "the kind of tokenizer is `none`"),
        ({"tokenizer.ggml.model": "bert"}, "the kind of tokenizer is `bert`"),
        (piece_keys() | {"tokenizer.ggml.scores": [1.0]}, "must be an array of"),
        (piece_keys(eos_token_id=9999), "must be the id of one of"),
        (piece_keys(model="gpt2", pre="unheard-of", merges=["a b"]), "`unheard-of` is unknown"),
        (piece_keys(model="gpt2", merges=["a q"]), "the merge ['a', 'q']"),
        (piece_keys(model="gpt2", merges=["nothing"]), "the merge ['nothing', '']"),
        (piece_keys(model="gpt2"), "the metadata has no `tokenizer.ggml.merges`"),
    ],
)
def test_a_tokenizer_that_cannot_be_built(tmp_path, keys, part):
    path = GgufFile(keys, {"x": Tensor("F32", (1,), bytes(4))}).write(tmp_path / "model.gguf")
    with pytest.raises(ModelError, match=r"model\.gguf") as caught:
        tokenizer_of(read_gguf(path))
    assert part in str(caught.value)
    assert caught.value.remedy
