"""The scores of prompts that the null backend returns."""

import pytest

from tgi.architectures import load_spec
from tgi.backend import FEATURES, EngineConfig, RequestedLimits, SamplingParams
from tgi.testing.conformance.backend_under_test import RecordingReporter, start
from tgi.testing.doubles.null_backend import tgi_backend

PROMPT = [5, 6, 7, 8, 9]


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("chunks", [[5], [1, 4], [2, 2, 1]])
def test_prompts_have_scores_and_top_tokens(tiny_model, chunks, count):
    config = EngineConfig("null", str(tiny_model), load_spec(tiny_model))
    worker = tgi_backend().create_worker(config, RecordingReporter())
    core = start(worker, RequestedLimits(max_concurrent_requests=2, features=tuple(FEATURES)))
    sequence = core.add(PROMPT, SamplingParams(prompt_logprobs=True, top_n_tokens=count))
    for chunk in chunks:
        core.step({sequence: chunk})
    worker.close()
    assert sequence.prompt_scores == dict.fromkeys(range(1, 5), -0.5)
    assert sequence.prompt_tops == {
        place: [(PROMPT[place] + rank, -0.5 * (rank + 1)) for rank in range(count)]
        for place in range(1, 5)
    }
