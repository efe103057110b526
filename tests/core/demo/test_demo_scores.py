"""The demo model answers held-out prompts as well as its model card states.

The answers are greedy, over HTTP, and without a grammar.
"""

from pathlib import Path

import pytest

from tests.live_server import running_server
from tgi.demo import demo_model_path
from tools.train_demo.evaluate import ask_server
from tools.train_demo.scoring import GROUPS, is_right, score_table

CARD = Path(__file__).parents[3] / "docs/demo-model.md"
# Scores of the published weights, less one prompt in each group, because the kernels of other
# machines round differently.
LEAST = {
    "tgi": 0.94,
    "sums": 0.96,
    "letters": 0.9,
    "counting": 0.9,
    "sorting": 0.83,
    "facts": 0.9,
    "json": 0.95,
    "tools": 0.9,
    "chat": 0.7,
}


@pytest.fixture(scope="module")
def responses(tmp_path_factory):
    log = tmp_path_factory.mktemp("demo") / "log"
    with running_server(demo_model_path(lambda _: None), "cpu", log) as server:
        return ask_server(server.url)


@pytest.mark.parametrize("group", GROUPS)
def test_share_of_right_responses(responses, group):
    marks = [is_right(response) for response in responses[0] if response.prompt.group == group]
    assert sum(marks) >= LEAST[group] * len(marks)


def test_responses_end_with_an_eos_token(responses):
    assert sum(response.is_ended for response in responses[0]) >= 0.95 * len(responses[0])


def test_the_first_example_is_responded_on_topic(responses):
    assert "neural network" in responses[1]


def test_the_model_card_states_these_scores(responses):
    card = dict(
        row.split("|")[1:3]
        for row in CARD.read_text(encoding="utf-8").splitlines()
        if row.count("|") == 5
    )
    for row in score_table(responses[0]).splitlines()[2:]:
        name, right = row.split("|")[1:3]
        assert abs(int(card[name]) - int(right)) <= 1
