"""The watermark end to end: a real model adds it on request, and the detector separates texts with
a watermark from texts without.
"""

import httpx
import pytest

from tests.live_server import running_server
from tgi.demo import demo_model_path
from tgi.testing.watermark import detect_watermark

PROMPT = "How are you today?"
NUM_TOKENS = 100
SEEDS = (1, 2, 3)
# A text has a watermark if its z-score is above this number of standard deviations.
THRESHOLD = 4
# A large value, so that the detector finds the watermark in a short text.
DELTA = "8.0"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    log = tmp_path_factory.mktemp("watermark") / "server.log"
    with running_server(demo_model_path(print), "cpu", log, "--watermark-delta", DELTA) as server:
        yield server.url


def z_score(url, seed, **requested):
    """Generate one text. Returns the z-score of its share of preferred tokens: the number of
    standard deviations above the share expected by chance.
    """
    sampling = {
        "do_sample": True,
        "temperature": 1.5,
        "seed": seed,
        "max_new_tokens": NUM_TOKENS,
        "ignore_eos": True,
    }
    body = {"inputs": PROMPT, "parameters": sampling | {"details": True} | requested}
    response = httpx.post(f"{url}/generate", json=body, timeout=60)
    assert response.status_code == 200, response.text
    prompt = [
        token["id"] for token in httpx.post(f"{url}/tokenize", json={"inputs": PROMPT}).json()
    ]
    output = [token["id"] for token in response.json()["details"]["tokens"]]
    vocab_size = httpx.get(f"{url}/info/backend").json()["vocab_size"]
    return detect_watermark(prompt + output, len(prompt), vocab_size).z_score


@pytest.mark.parametrize("seed", SEEDS)
def test_a_watermark_is_found_if_and_only_if_it_was_requested(url, seed):
    marked, plain = z_score(url, seed, watermark=True), z_score(url, seed)
    print(f"{marked:.1f} with a watermark, {plain:.1f} without")
    assert marked > THRESHOLD > abs(plain)
