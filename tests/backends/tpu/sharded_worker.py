"""A worker over several devices, in a process of its own: JAX settles the number of devices once. Prints what it agreed to.

Usage: python -m tests.backends.tpu.sharded_worker FOLDER NUM_SHARD
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import msgspec

from tgi.backend import SamplingParams, Wish
from tgi.testing.conformance.expectations import check_sequences
from tgi.testing.conformance.scripted_core import ScriptedCore
from tgi.testing.conformance.subject import RecordingHost, Subject, prompt_of
from tgi_tpu import tgi_backend

WISH = Wish(max_total_tokens=96, max_batch_size=4, max_batch_total_tokens=512, features=("prompt_logprobs",))
SAMPLING = (
    SamplingParams(logprobs="raw", top_n_tokens=3, prompt_logprobs=True),
    SamplingParams(greedy=False, top_p=0.9, top_k=50, repetition_penalty=1.3, logprobs="processed"),
    SamplingParams(greedy=False, typical_p=0.9, min_p=0.01),
)


def main(folder: str, num_shard: str) -> None:
    subject = Subject("tpu", tgi_backend(), Path(folder), options={"platform": "cpu", "token-buckets": "64"})
    model = subject.models.get("llama", num_attention_heads=4, num_key_value_heads=2)
    config = msgspec.structs.replace(subject.config(model), num_shard=int(num_shard))
    assert subject.backend.supports(model.spec, config).verdict == "native"
    worker = subject.backend.create_worker(config, RecordingHost())
    worker.load()
    agreement = worker.negotiate(
        Wish(max_total_tokens=96, max_batch_size=4, max_batch_total_tokens=512, features=("prompt_logprobs",))
    )
    worker.warmup()
    core = ScriptedCore(worker, agreement)
    sequences = [core.add(prompt_of(30 + i, seed=i), sampling, seed=i) for i, sampling in enumerate(SAMPLING)]
    core.generate(sequences, 3)
    core.advance(dict.fromkeys(sequences, 0), on_device=True)
    check_sequences(model, sequences, agreement)
    assert worker.health(deep=True).ok
    divided = [array for array in jax.live_arrays() if not array.sharding.is_fully_replicated]
    worker.close()
    print(agreement.facts["num_devices"], len(divided) > 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
