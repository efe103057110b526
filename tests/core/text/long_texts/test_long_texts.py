"""Long texts are tokenized in a separate process, with the same results as in this process."""

import asyncio
import os
import signal

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models

from tests.core.text import tokenizer_parts
from tests.core.text.conftest import save
from tgi.errors import UnhealthyError, ValidationError
from tgi.text import Tokenizer, TokenizerPool
from tgi.text.long_texts.process import TokenizerProcess

LENGTH = 1 << 16
TEXTS = {
    "words": "The quick brown fox, it's 12345 o'clock. ",
    "spaces": "a  ",
    "lines": "x = [1, 2]\n\n\t",
    "scripts": "Größe 東京は大きい。 Привет 🙂 ",
    "special": "<|im_end|> </s> <unk> a",
    "one character": "b",
}
SPECIAL = ["<unk>", "<s>", "<bos>", "</s>", "<|im_end|>"]
BUILDERS = {
    "llama3": lambda: tokenizer_parts.byte_level(
        tokenizer_parts.byte_level_words(tokenizer_parts.LLAMA3), SPECIAL
    ),
    "llama2": lambda: tokenizer_parts.llama2(SPECIAL),
}


@pytest.fixture(params=BUILDERS)
def tokenizer(request, tmp_path):
    return Tokenizer.load(save(BUILDERS[request.param](), tmp_path))


@pytest.fixture
def pool(tokenizer):
    pool = TokenizerPool(tokenizer, 1, tokenizer.folder)
    yield pool
    pool.close()


async def test_the_results_are_those_of_the_tokenizer(pool, tokenizer):
    for name, part in TEXTS.items():
        text = (part * LENGTH)[:LENGTH]
        expected = tokenizer.encode(text)
        assert await pool.encode(text) == expected, name
        assert await pool.encode(text, True, 7) == tokenizer.encode(text, True, 7), name
        assert await pool.encode(text, False) == tokenizer.encode(text, False), name
        assert await pool.count(text) == len(expected.ids), name
        assert await pool.format_tokens(text) == tokenizer.format_tokens(text), name
    assert pool._process.pid is not None


async def test_the_process_is_started_for_the_first_long_text(pool):
    await pool.encode("a" * (LENGTH - 1))
    assert pool._process.pid is None
    await asyncio.gather(*(pool.count("a" * LENGTH) for _ in range(3)))
    assert pool._process.pid is not None


async def test_a_killed_process_is_replaced(pool, tokenizer):
    text = "a b " * LENGTH
    expected = await pool.count(text)
    first = pool._process.pid
    os.kill(first, signal.SIGKILL)
    assert await pool.count(text) == expected
    assert pool._process.pid != first


async def test_a_text_that_cannot_be_encoded_is_rejected_by_the_process(tmp_path):
    backend = Backend(models.WordPiece({"a": 0, "b": 1}, unk_token="[UNK]"))
    tokenizer = Tokenizer.load(save(backend, tmp_path, tokenizer_config={}))
    pool = TokenizerPool(tokenizer, 1, tokenizer.folder)
    try:
        with pytest.raises(ValidationError, match="the tokenizer cannot encode the text: "):
            await pool.count("z" * LENGTH)
    finally:
        pool.close()


def test_a_process_without_a_tokenizer_is_reported(tmp_path):
    process = TokenizerProcess(tmp_path)
    with pytest.raises(UnhealthyError, match="The process that tokenizes long texts has ended"):
        process.count("a", False)
    process.close()
