"""The modelling code of `transformers` as a fallback, for families that are not built in.

The text is the same for all kinds of steps, and untrusted code is never run. Some of the families
are built in. The tests run them in the fallback, because their caches differ.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.backends.checkpoints import SMALL, save_checkpoint
from tgi.architectures import load_spec
from tgi.architectures.generic import generic_spec
from tgi.backend import FEATURES, EngineConfig, ModelError, RequestedLimits, SamplingParams
from tgi.testing.conformance.backend_under_test import RecordingReporter, start
from tgi_cpu import tgi_backend
from tgi_torch.model.transformers_loading import load_transformers_model

SIZES = SMALL | {"vocab_size": 101, "bos_token_id": 1, "eos_token_id": 2}
MAMBA = {
    "mamba_d_state": 8,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
FAMILIES = {
    "cwm": SIZES | {"head_dim": 8},
    "jamba": (
        SIZES
        | {
            "mamba_d_state": 8,
            "num_experts": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
        }
    ),
    "bamba": SIZES | MAMBA | {"attn_layer_indices": [1]},
    "falcon_h1": SIZES | MAMBA | {"mamba_d_ssm": 64},
    "llama4_text": (
        SIZES
        | {
            "head_dim": 8,
            "intermediate_size_mlp": 40,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "attention_chunk_size": 64,
        }
    ),
    "minimax": SIZES | {"head_dim": 8, "num_local_experts": 2, "block_size": 8},
    "nemotron_h": (
        SIZES
        | {
            "head_dim": 8,
            "mamba_num_heads": 4,
            "mamba_head_dim": 16,
            "n_groups": 1,
            "ssm_state_size": 8,
            "chunk_size": 8,
            "layers_block_type": ["mamba", "attention"],
        }
    ),
    "qwen3_5_text": (
        SIZES
        | {
            "head_dim": 8,
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"],
        }
    ),
}
"""The first family has attention only. The others have recurrent layers, code that cannot process a
prompt in chunks, a special class of cache, positions that have to be passed, or a head that reads
attributes of the layers.
"""

NUM_PROMPTS = 20
NUM_OUTPUT = 16


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    paths = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    return {
        family: (path, save_checkpoint(family, path, **FAMILIES[family]))
        for family, path in paths.items()
    }


def config_of(path):
    """The config with which the worker uses the fallback, also for a built-in family."""
    config = json.loads((path / "config.json").read_text())
    return EngineConfig("cpu", str(path), generic_spec(config))


@pytest.fixture(params=FAMILIES)
def served(request, checkpoints, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path, model = checkpoints[request.param]
    reporter = RecordingReporter()
    worker = tgi_backend().create_worker(config_of(path), reporter)
    requested = RequestedLimits(
        max_concurrent_requests=8,
        max_batch_prefill_tokens=256,
        max_total_tokens=96,
        max_batch_total_tokens=2048,
        features=tuple(sorted(FEATURES)),
    )
    yield model, start(worker, requested), reporter
    worker.close()


def expected_output(model, prompt):
    chosen = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=NUM_OUTPUT,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return chosen[0, len(prompt) :].tolist()


def test_greedy_equals_generate_while_sequences_are_added_and_dropped(served):
    model, core, _ = served
    rng = np.random.default_rng(3)
    waiting = {
        handle: rng.integers(3, 101, length).tolist()
        for handle, length in enumerate(rng.integers(1, 60, NUM_PROMPTS))
    }
    prompts, done = dict(waiting), {}
    cancelled = 5
    while waiting or core.live:
        for handle in list(waiting)[: max(0, 6 - len(core.live))]:
            core.add(waiting.pop(handle), handle=handle)
        in_parts = core.agreement.limits.chunked
        core.step(
            {
                s: 7 if in_parts and len(s.tokens) - s.num_computed_tokens > 20 else 0
                for s in core.live.values()
            }
        )
        for sequence in [
            s
            for s in core.live.values()
            if len(s.output) == (3 if s.handle == cancelled else NUM_OUTPUT)
        ]:
            core.drop(sequence)
            done[sequence.handle] = sequence.output
    assert sorted(done) == list(range(NUM_PROMPTS))
    for handle, output in done.items():
        assert output == expected_output(model, prompts[handle])[: len(output)], handle


def test_negotiated_limits(served):
    _, core, reporter = served
    agreement = core.agreement
    assert not agreement.has("prefix_cache")
    assert agreement.facts["kernels"] == "transformers"
    assert agreement.limits.chunked == (not reporter.lines)
    assert core.worker.health(deep=True).ok


def test_scores_and_logprobs_equal_those_of_the_model(served):
    model, core, _ = served
    prompt = [5, 9, 3, 22, 17]
    sequence = core.add(prompt, SamplingParams(logprobs="raw", prompt_logprobs=True))
    output = core.step({sequence: 0})
    with torch.inference_mode():
        logprobs = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    assert np.allclose(output.prompt_scores[0].logprobs, logprobs[range(4), prompt[1:]], atol=1e-4)
    assert np.allclose(output.logprobs, logprobs[-1].max(), atol=1e-4)


def load(path, *, trust_remote_code=False):
    cpu, spec = torch.device("cpu"), load_spec(path)
    return load_transformers_model(
        spec,
        torch.float32,
        cpu,
        path,
        lambda done, total: None,
        trust_remote_code=trust_remote_code,
    )


def test_a_dropped_sequence_leaves_no_cache(served):
    _, core, _ = served
    model = core.worker._part._model
    first, second = core.add([5, 6, 7]), core.add([8, 9])
    core.step({first: 0, second: 0})
    assert model.num_sequences == 2
    core.drop(first)
    core.step({second: 0})
    assert model.num_sequences == 1


def test_a_lost_tensor_is_named(checkpoints, tmp_path):
    path = shutil.copytree(checkpoints["cwm"][0], tmp_path / "checkpoint")
    tensors = load_file(path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ModelError, match=r"checkpoint: tensor `model.layers.1.mlp.up_proj.weight` is missing"
    ):
        load(path)


def test_an_unknown_family_gives_one_line(checkpoints, tmp_path):
    path = shutil.copytree(checkpoints["cwm"][0], tmp_path / "checkpoint")
    change_config(path, model_type="unheard_of")
    with pytest.raises(
        ModelError, match=r"transformers .* cannot run the architecture `unheard_of`"
    ) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def change_config(path, **changes):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))


CANARY = "from pathlib import Path; import os; Path(os.environ['CANARY']).write_text('ran')\n"
RUN = """
import os, sys
from pathlib import Path
import torch
from tgi.architectures import load_spec
from tgi.architectures.generic import generic_spec
from tgi.backend import ModelError
from tgi_torch.model.transformers_loading import load_transformers_model
CPU, print_nothing = torch.device("cpu"), lambda done, total: None
canary = Path(os.environ["CANARY"])
for path in map(Path, sys.argv[1:]):
    for trust in (False, True):
        try:
            load_transformers_model(
                load_spec(path), torch.float32, CPU, path, print_nothing, trust_remote_code=trust
            )
            end = "loaded"
        except ModelError as error:
            end = str(error)
        print(trust, canary.exists(), end)
        canary.unlink(missing_ok=True)
"""


def test_code_of_a_checkpoint_runs_only_if_it_is_trusted(checkpoints, tmp_path):
    """Without the option no code runs. With the option the canary file proves that it runs."""
    known, unknown, foreign = (tmp_path / name for name in ("known", "unknown", "foreign"))
    for path, model_type, repository in (
        (known, "cwm", ""),
        (unknown, "own", ""),
        (foreign, "own", "else/where--"),
    ):
        shutil.copytree(checkpoints["cwm"][0], path)
        code = {
            "AutoConfig": f"{repository}code_of_it.Config",
            "AutoModelForCausalLM": f"{repository}code_of_it.Model",
        }
        change_config(path, model_type=model_type, auto_map=code)
        (path / "code_of_it.py").write_text(CANARY)
    environment = os.environ | {
        "CANARY": str(tmp_path / "canary"),
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-c", RUN, *map(str, (known, unknown, foreign))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "False False loaded"
    assert lines[1].startswith("True True ")
    assert lines[2].startswith("False False The architecture `own` needs code")
    assert lines[3].startswith("True True ")
    assert lines[4].startswith("False False The architecture `own` needs code")
    assert lines[5].startswith(
        "True False The config takes code from another repository, else/where"
    )


def test_without_transformers_the_error_names_the_extra(checkpoints):
    code = (
        "import importlib.util, sys; real = importlib.util.find_spec\nimportlib.util.find_spec ="
        " lambda name, *rest: None if name == 'transformers' else real(name, *rest)\nfrom pathlib"
        " import Path; import tgi_cpu\nfrom tgi.architectures import load_spec; from tgi.backend"
        " import EngineConfig\nspec = load_spec(Path(sys.argv[1])); config = EngineConfig('cpu',"
        " sys.argv[1], spec)\nprint(*tgi_cpu.tgi_backend().supports(spec, config).reasons,"
        " sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(checkpoints["cwm"][0])],
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = done.stdout.splitlines()
    assert line.endswith("is not installed; install tgi with the extra `transformers`")


def test_support_reports_before_loading_that_the_model_is_slow(checkpoints):
    config = config_of(checkpoints["jamba"][0])
    support = tgi_backend().supports(config.spec, config)
    assert support.status == "slow"
    assert "transformers' modelling code, one sequence after the other" in support.reasons[0]
    assert (
        support.memory[0].num_bytes
        == sum(p.numel() for p in checkpoints["jamba"][1].parameters()) * 4
    )
    for change in ({"is_encoder_decoder": True}, {"quantization_config": {"quant_method": "awq"}}):
        spec = msgspec.structs.replace(config.spec, config=config.spec.config | change)
        assert tgi_backend().supports(spec, config).status == "no"
