"""`huggingface_hub.InferenceClient` against a running server."""

import pytest
from huggingface_hub import InferenceClient

PROMPT = "The quick brown fox"


@pytest.fixture
def client(live_server):
    return InferenceClient(live_server.url)


def test_text_generation_returns_text(client):
    plain = client.text_generation(PROMPT, max_new_tokens=5, return_full_text=False)
    # On `POST /` with a local model, TGI returns the full text by default.
    with_prompt = client.text_generation(PROMPT, max_new_tokens=5)
    assert plain
    assert with_prompt == PROMPT + plain


def test_details_count_the_tokens(client):
    response = client.text_generation(
        PROMPT, max_new_tokens=5, details=True, decoder_input_details=False
    )
    assert response.details.finish_reason == "length"
    assert response.details.generated_tokens == len(response.details.tokens) == 5
    assert response.details.seed is None
    assert all(token.logprob is not None for token in response.details.tokens)


def test_a_stream_returns_the_same_text(client):
    text = client.text_generation(PROMPT, max_new_tokens=8, return_full_text=False)
    assert "".join(client.text_generation(PROMPT, max_new_tokens=8, stream=True)) == text


def test_the_last_event_of_a_stream_has_text_and_details(client):
    events = list(client.text_generation(PROMPT, max_new_tokens=4, stream=True, details=True))
    assert [event.index for event in events] == [1, 2, 3, 4]
    assert [event.generated_text is None for event in events] == [True, True, True, False]
    assert events[-1].details.generated_tokens == 4
    assert events[-1].details.finish_reason == "length"


def test_sampling_reports_its_seed(client):
    response = client.text_generation(
        PROMPT, max_new_tokens=3, do_sample=True, seed=7, details=True
    )
    assert response.details.seed == 7


def test_chat_completion(client):
    response = client.chat_completion([{"role": "user", "content": "Hello"}], max_tokens=4)
    assert response.choices[0].message.content
    assert response.choices[0].finish_reason == "length"
    assert response.usage.completion_tokens == 4


def test_a_chat_stream_ends_with_its_finish_reason(client):
    chunks = list(
        client.chat_completion([{"role": "user", "content": "Hello"}], max_tokens=4, stream=True)
    )
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert reasons[-1] == "length"
    assert set(reasons[:-1]) <= {None}
