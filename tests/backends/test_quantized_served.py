"""`tgi serve`, `tgi inspect` and `tgi doctor` with quantized checkpoints."""

from __future__ import annotations

import httpx
import pytest

from tests.live_server import running_server
from tests.near_ties import assert_equal_up_to_near_ties, generated
from tests.quantized_checkpoints import change_config, write_quantized
from tgi.cli import main
from tgi.testing.tiny_models import write_tiny_model

SIZES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LIMITS = ("--max-total-tokens", "64", "--max-batch-size", "2", "--max-batch-prefill-tokens", "16")
LINES = {
    "cpu": "the quantized weights keep the format of the checkpoint",
    "tpu": "are dequantized to bfloat16",
}
ARGUMENTS = {
    "cpu": LIMITS,
    "tpu": (*LIMITS, "--tpu-platform", "cpu", "--tpu-token-buckets", "16"),
}
LONG = pytest.mark.long


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    def write(name):
        source = tmp_path_factory.mktemp(name)
        write_tiny_model(source / "source", dtype="bfloat16", **SIZES)
        return write_quantized(source / "source", source, name)

    return write


@pytest.mark.parametrize(
    ("backend", "name"),
    [
        ("cpu", "gptq-order"),
        ("cpu", "awq"),
        ("cpu", "marlin"),
        ("tpu", "gptq-order"),
        pytest.param("tpu", "awq", marks=LONG),
        pytest.param("tpu", "marlin", marks=LONG),
    ],
)
def test_greedy_tokens_are_those_of_the_dequantized_model(backend, name, folders, tmp_path):
    parameters = {
        "max_new_tokens": 32,
        "details": True,
        "ignore_eos": True,
        "top_n_tokens": 2,
    }
    body = {"inputs": "The quick brown fox", "parameters": parameters}
    found = []
    for path in folders(name):
        log = tmp_path / "log"
        with running_server(path, backend, log, *ARGUMENTS[backend]) as server:
            response = httpx.post(f"{server.url}/generate", json=body, timeout=60).json()
        found.append(generated(response))
        assert (LINES[backend] in log.read_text()) == (path.name == "quantized")
        assert ("The checkpoint is quantized: " in log.read_text()) == (path.name == "quantized")
    assert len(found[0][0]) == 32
    assert_equal_up_to_near_ties(*found)


def output(capsys, *words):
    code = main([*words])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_commands_report_format_exceptions_and_memory(folders, capsys):
    path = str(folders("gptq")[0])
    code, printed = output(capsys, "inspect", path, "--backend", "cpu")
    assert code == 0, printed
    assert "GPTQ, 4 bits, groups of 32 inputs (`gptq`)" in printed
    assert "14 int4 in groups of 32: " in printed
    assert "model.embed_tokens (" in printed
    code, printed = output(capsys, "doctor", path, "--backend", "cpu")
    assert code == 0, printed
    assert "quantized (GPTQ, 4 bits, groups of 32 inputs)" in printed
    assert "weights: GPTQ, 4 bits, groups of 32 inputs, as in the checkpoint" in printed


def test_a_value_of_quantize_that_contradicts_the_checkpoint_is_rejected(folders, capsys):
    quantized, dequantized = map(str, folders("gptq"))
    code, printed = output(capsys, "inspect", quantized, "--backend", "cpu", "--quantize", "gptq")
    assert code == 0, printed
    for value in ("int8", "awq"):
        code, printed = output(
            capsys, "inspect", quantized, "--backend", "cpu", "--quantize", value
        )
        assert code == 1
        assert f"problem: `--quantize {value}` contradicts the checkpoint" in printed
    code, printed = output(capsys, "inspect", dequantized, "--backend", "cpu", "--quantize", "gptq")
    assert code == 1
    assert "but this checkpoint is not quantized" in printed


def test_a_format_that_is_not_supported_is_a_problem(folders, capsys):
    path = folders("gptq")[0]
    change_config(path, quantization_config={"quant_method": "rot13"})
    code, printed = output(capsys, "inspect", str(path), "--backend", "cpu")
    assert code == 1
    assert "the quantization method `rot13` is not supported" in printed
