"""The scripts in `benchmarks/`: the other servers, the models, and the table of a comparison."""

import struct
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import psutil
import pytest
import safetensors
from compare_report import _ratio, markdown, plot
from gguf_file import _interleaved, _name, _value
from models import MODELS, Model, _bfloat16_bits, weights, write_safetensors
from peers import PEERS, Start
from server_process import free_port, running


def test_a_missing_peer_reports_its_install_command(tmp_path):
    assert [peer.name for peer in PEERS if not peer.program] == ["tgi", "tgi-int8", "tgi-int4"]
    for peer in (peer for peer in PEERS if peer.program):
        empty = tmp_path / peer.name
        assert (
            peer.unsupported_reason(empty, tmp_path / "135m")
            == f"not installed; in {empty} run: {peer.install}"
        )
        (tmp_path / peer.program).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / peer.program).touch()
        unsupported_reason = peer.unsupported_reason(tmp_path, tmp_path / "135m")
        assert (
            str(tmp_path / "135m") in unsupported_reason if peer.needs else unsupported_reason == ""
        )


def test_every_peer_is_started_on_its_port(tmp_path):
    start = Start(tmp_path, tmp_path / "model", 12345, 2)
    for peer in PEERS:
        command = peer.command(start)
        assert "12345" in command
        assert any(str(tmp_path / "model") in word for word in command)
        assert all(isinstance(value, str) for value in peer.environment(start).values())


def test_the_models_have_their_sizes():
    assert {name: model.num_parameters for name, model in MODELS.items()} == {
        "135m": 134_515_008,
        "0.5b": 494_032_768,
    }


def small_model(model_type="llama"):
    return Model(
        model_type, "LlamaForCausalLM", 8, 2, 2, 1, 16, 24, 64, 1e4, 1e-5, has_qkv_bias=True
    )


def test_weights_are_read_as_they_were_generated(tmp_path):
    model = small_model()
    write_safetensors(tmp_path / "w", model.tensors(), weights(model))
    read = dict(safetensors.deserialize((tmp_path / "w").read_bytes()))
    assert read.keys() == model.tensors().keys()
    for (name, shape), drawn in zip(model.tensors().items(), weights(model), strict=True):
        assert (read[name]["shape"], read[name]["dtype"]) == (list(shape), "BF16")
        assert bytes(read[name]["data"]) == drawn.tobytes()
    assert np.isclose(
        np.std((next(weights(model)).astype(np.uint32) << 16).view(np.float32)), 0.02, rtol=0.2
    )


def test_rounding_to_bfloat16():
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -2.5], np.float32)
    assert [hex(bits) for bits in _bfloat16_bits(values)] == [
        "0x3f80",
        "0x3f80",
        "0x3f82",
        "0x3f81",
        "0xc020",
    ]


def test_queries_and_keys_of_a_gguf_are_interleaved(tmp_path):
    rows = np.arange(8, dtype=np.uint16).reshape(8, 1)
    assert _interleaved(rows, 4).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert _name("model.layers.11.self_attn.q_proj.bias") == "blk.11.attn_q.bias"
    assert {_name(name) for name in small_model().tensors()} >= {
        "token_embd.weight",
        "output_norm.weight",
        "blk.1.ffn_down.weight",
    }
    assert _value(True) == struct.pack("<I?", 7, True)
    assert _value(["ab"]) == struct.pack("<IIQ", 9, 8, 1) + struct.pack("<Q", 2) + b"ab"


def record(peer, repeat, value, valid=True, engine_only=False, foreign=0.0, precision="bf16"):
    run = {
        "output_tokens_per_second": value,
        "ttft_ms": {"p50": 1000 / value},
        "failures": ["x"],
        "foreign_cpus": foreign,
    }
    return {
        "peer": peer, "model": "135m", "case": "1-user", "repeat": repeat,
        "engine_only": engine_only, "valid": valid, "run": run, "precision": precision,
    }  # fmt: skip


def report_of(records):
    whole = {
        "case": "135m-process",
        "valid": True,
        "seconds_to_ready": 2.0,
        "peak_memory_mib": 800.0,
    }
    names = {r["peer"]: r["precision"] for r in records}
    processes = [
        {
            "peer": name,
            "model": "135m",
            "repeat": 0,
            "engine_only": False,
            "precision": precision,
            **whole,
        }
        for name, precision in names.items()
        if name != "engine"
    ]
    environment = {
        "date": "2026-01-01T00:00:00", "processor": "P", "threads": 2, "versions": {"tgi": "4"},
        "limits": {"135m_decode": 200.0, "135m_prompt_2048_ms": 600.0},
    }  # fmt: skip
    case = {"name": "1-user", "model": "135m", "users": 1, "figure": "tok/s"}
    return {"environment": environment, "cases": [case], "records": [*records, *processes]}


def test_the_table_compares_within_a_repeat():
    records = [record("tgi", n, value) for n, value in enumerate((100, 50, 120))]
    records += [record("peer", n, value) for n, value in enumerate((80, 40, 60))]
    records += [
        record("engine", 0, 500, engine_only=True),
        record("other", 0, 900, valid=False, foreign=0.3),
    ]
    report = report_of(records)
    table = markdown(report)
    row = next(line for line in table.splitlines() if line.startswith("| 1-user"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    head = [cell.strip() for cell in table.splitlines()[0].strip("|").split("|")]
    found = dict(zip(head, cells, strict=True))
    assert found["tgi"] == "100.0 (50.0 to 120.0)"
    assert found["other"] == "-"
    # The ratios are 100/80, 50/40 and 120/60, with median 1.25. The engine without a server and
    # the invalid run are left out.
    assert found["ours / best HTTP peer"] == "1.25"
    assert found["share of the limit"] == "50%"
    assert "Invalid and left out: other 1-user: ['x']." in table
    assert "at most 0.30 processors" in table
    ElementTree.fromstring(plot(report))


def test_each_precision_has_its_own_table():
    records = [record("tgi", 0, 100), record("peer", 0, 80)]
    records += [
        record("tgi-int8", 0, 150, precision="int8"),
        record("peer-q8", 0, 100, precision="int8"),
    ]
    plain, quantized = markdown(report_of(records)).split("\n\n")[:2]
    assert "| 1.25 " in plain
    assert "150.0" not in plain
    assert "| 1.50 " in quantized
    assert "80.0" not in quantized
    assert "%" not in quantized  # The limits are computed for unquantized weights only.


def test_less_time_is_a_higher_ratio():
    report = report_of([record("tgi", 0, 1), record("peer", 0, 1)])
    assert _ratio(report, {"tgi": {0: 10.0}, "peer": {0: 15.0}}, less_is_better=True) == "1.50"


def test_a_server_that_does_not_start_shows_its_log(tmp_path):
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    with (
        pytest.raises(RuntimeError, match="no such model"),
        running(command, free_port(), "/", tmp_path / "log"),
    ):
        pass


def test_a_server_is_ready_when_it_responds_and_stops_with_its_children(tmp_path):
    port = free_port()
    code = (
        "import subprocess, sys; subprocess.run([sys.executable, '-m', 'http.server', sys.argv[1],"
        " '--bind', '127.0.0.1'])"
    )
    with running(
        [sys.executable, "-c", code, str(port)], port, "/", Path(tmp_path) / "log"
    ) as server:
        children = psutil.Process(server.pid).children()
        assert len(children) == 1
        assert server.peak_memory_mib() > 1
        assert server.seconds_to_ready > 0
    assert not any(child.is_running() for child in children)
