"""Rotary frequencies compared with those of `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tests.backends.checkpoints import save_variant
from tgi.architectures import load_spec
from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.rope import inverse_frequencies, read_rope
from tgi.backend import EngineConfig, RequestedLimits
from tgi.testing.conformance.backend_under_test import RecordingReporter
from tgi_cpu import tgi_backend

HEAD_DIM, MAX_POSITIONS = 64, 4096

SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    },
    "yarn": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512},
    "yarn-mscale": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 512,
        "mscale": 0.7,
        "mscale_all_dim": 1.3,
        "beta_fast": 20,
        "beta_slow": 2,
    },
    "yarn-attention-factor": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 512,
        "attention_factor": 1.25,
        "truncate": False,
    },
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0 + 0.01 * i for i in range(HEAD_DIM // 2)],
        "long_factor": [2.0 + 0.3 * i for i in range(HEAD_DIM // 2)],
        "original_max_position_embeddings": 1024,
        "factor": 4.0,
    },
}


@pytest.mark.parametrize("seq_len", [100, 1024, 1025, 4096, 9000])
@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("spelling", ["rope_parameters", "rope_scaling"])
def test_frequencies_equal_transformers(name: str, seq_len: int, spelling: str) -> None:
    scaling = SCALINGS[name]
    config = LlamaConfig(
        hidden_size=2 * HEAD_DIM,
        num_attention_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters={"rope_theta": 50000.0, **scaling},
    )
    expected, expected_factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](
        config, "cpu", seq_len=seq_len
    )

    if spelling == "rope_parameters":
        written: dict[str, Any] = {"rope_parameters": {"rope_theta": 50000.0, **scaling}}
    else:
        written = {"rope_theta": 50000.0, "rope_scaling": scaling}
    rope = read_rope(ConfigReader(written), head_dim=HEAD_DIM, max_positions=MAX_POSITIONS)
    frequencies, factor = inverse_frequencies(rope, seq_len)

    assert frequencies.shape == (HEAD_DIM // 2,)
    np.testing.assert_allclose(frequencies, expected.double().numpy(), rtol=2e-6)
    assert factor == pytest.approx(expected_factor)


def test_partial_rotary_embedding_rotates_part_of_the_head() -> None:
    config = LlamaConfig(
        hidden_size=2 * HEAD_DIM,
        num_attention_heads=2,
        rope_parameters={
            "rope_type": "linear",
            "factor": 2.0,
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
        },
    )
    expected, _ = ROPE_INIT_FUNCTIONS["linear"](config, "cpu")

    written = {
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.25,
        "rope_scaling": {"type": "linear", "factor": 2},
    }
    rope = read_rope(ConfigReader(written), head_dim=HEAD_DIM, max_positions=MAX_POSITIONS)

    assert rope.rotary_dim == HEAD_DIM // 4
    np.testing.assert_allclose(
        inverse_frequencies(rope, 10)[0], expected.double().numpy(), rtol=2e-6
    )


@pytest.mark.parametrize(("max_total_tokens", "shared"), [(16, True), (17, False)])
def test_no_prefix_cache_if_frequencies_depend_on_the_length(
    max_total_tokens: int, shared: bool, tmp_path: Path
) -> None:
    save_variant("phi3-longer", tmp_path)  # its frequencies change above 16 tokens
    worker = tgi_backend().create_worker(
        EngineConfig("cpu", str(tmp_path), load_spec(tmp_path)), RecordingReporter()
    )
    worker.load()
    agreement = worker.negotiate(
        RequestedLimits(
            max_concurrent_requests=2,
            max_total_tokens=max_total_tokens,
            features=("prefix_cache",),
        )
    )
    assert ("prefix_cache" in agreement.features) is shared
    worker.close()
