"""The training of the demo model: texts that share a row are independent, and no text is lost."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from tools.train_demo.batches import LENGTHS, pool_batches
from tools.train_demo.chat_format import segments
from tools.train_demo.generation import agreement, greedy_ids
from tools.train_demo.model import DRAFT, Llama
from tools.train_demo.text.generator import conversations
from tools.train_demo.train import Run, start_from

TOKENIZER = Path(__file__).parents[3] / "core/tgi/demo/model/tokenizer.json"
POOL = 200


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(TOKENIZER))


@pytest.fixture(scope="module")
def batches(tokenizer):
    return list(pool_batches(tokenizer, 7, 0, POOL, 1536))


def documents(batch):
    """The tokens and targets of each conversation in a batch."""
    for row in range(len(batch.tokens)):
        for number in range(int(batch.documents[row].max()) + 1):
            places = batch.documents[row] == number
            yield batch.tokens[row, places].tolist(), batch.targets[row, places].tolist()


def test_every_conversation_is_in_one_row(tokenizer, batches):
    found = sorted(pair for batch in batches for pair in documents(batch))
    expected = []
    for conversation in conversations(7, 0, POOL):
        ids, goals = [], []
        for text, is_target in segments(conversation):
            piece = tokenizer.encode(text, add_special_tokens=False).ids
            ids += piece
            goals += piece if is_target else [-100] * len(piece)
        expected.append((ids[:-1][: LENGTHS[-1]], goals[1:][: LENGTHS[-1]]))
    assert found == sorted(expected)
    assert {batch.tokens.shape[1] for batch in batches} == set(LENGTHS)
    assert sum(batch.num_tokens for batch in batches) == sum(len(ids) for ids, _ in expected)


def test_nothing_is_learned_behind_the_last_conversation(batches):
    assert any((batch.documents < 0).any() for batch in batches)
    for batch in batches:
        assert (batch.targets[batch.documents < 0] == -100).all()


def test_texts_of_a_row_are_computed_as_if_alone(batches):
    torch.manual_seed(0)
    model = Llama(DRAFT)
    batch = max(batches, key=lambda batch: int((batch.documents[0] == 1).sum()))
    places = batch.documents[0] == 1
    assert places.any()
    with torch.inference_mode():
        packed = model(batch.tokens[:1], batch.documents[:1])[0, places]
        alone = model(batch.tokens[:1, places])[0]
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-4)


def test_training_continues_from_a_saved_state(batches, tmp_path):
    torch.manual_seed(0)
    first = Run(Llama(DRAFT), 3e-3, is_compiled=False)
    losses = [first.train_step(batches[0], 0.5) for _ in range(3)]
    assert losses[2] < losses[0]
    first.save(tmp_path / "checkpoint.pt")
    second = Run(Llama(DRAFT), 3e-3, is_compiled=False)
    second.restore(tmp_path / "checkpoint.pt")
    assert (second.step, second.tokens) == (3, 3 * batches[0].num_tokens)
    assert second.train_step(batches[1], 0.5) == first.train_step(batches[1], 0.5)


def test_a_new_tokenizer_keeps_the_knowledge_of_the_old_model(tokenizer, tmp_path):
    torch.manual_seed(0)
    former = Llama(DRAFT)
    (tmp_path / "draft").mkdir()
    Run(former, 3e-3, is_compiled=False).save(tmp_path / "draft/checkpoint.pt")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    fresh = Llama(DRAFT)
    start_from(fresh, tokenizer, tmp_path / "draft")
    assert all(
        torch.equal(value, former.state_dict()[name]) for name, value in fresh.state_dict().items()
    )


def test_a_model_agrees_with_itself_alone():
    torch.manual_seed(0)
    model, other = Llama(DRAFT), Llama(DRAFT)
    prompts = [[5, 6, 7], [8, 9]]
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    responses = [
        (prompt, ids)
        for prompt, (ids, _) in zip(prompts, greedy_ids(model, tokenizer, prompts, 6), strict=True)
    ]
    assert agreement(model, responses) == (12, 12)
    assert agreement(other, responses)[0] < 12
