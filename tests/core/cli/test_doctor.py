"""`tgi doctor`: which backend would serve a model, how, and which limits fit the memory."""

from __future__ import annotations

import json

import pytest

from tests.core.engine.engine_setup import start_message
from tgi.backend import BackendInfo, DeviceInfo, Implementation, MemoryItem, ProbeResult, Support
from tgi.cli import main
from tgi.models.memory_estimate import estimate_memory
from tgi.plugins import BackendRegistry, Candidate

GIB = 1 << 30
ITEMS = (MemoryItem("weights", 6 * GIB), MemoryItem("KV cache of one token", 1 << 20))


def devices(count, num_bytes=8 * GIB):
    return tuple(DeviceInfo(str(i), "a device", num_bytes) for i in range(count))


def estimate(count=1, items=ITEMS, **changes):
    settings = {"num_shard": 1, "memory_fraction": 1.0, "model_max_tokens": 1024} | changes
    return estimate_memory(devices(count), items, **settings)


def test_memory_not_used_by_weights_is_available_to_the_cache():
    memory = estimate()
    assert (memory.left_bytes, memory.cache_tokens, memory.num_full_sequences) == (2 * GIB, 2048, 2)
    assert memory.problem == ""


def test_memory_fraction_and_shards_change_the_available_memory():
    assert estimate(memory_fraction=0.875).cache_tokens == 1024
    assert estimate(count=4, num_shard=2).device_bytes == 16 * GIB


def test_the_context_length_is_reduced_to_fit_the_cache_unless_it_is_set():
    assert estimate(model_max_tokens=100_000).max_total_tokens == 2048
    limited = estimate(max_total_tokens=4096)
    assert limited.problem == (
        "a sequence of 4096 tokens does not fit into the cache, which has space for at most 2048"
        " tokens"
    )


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"items": (MemoryItem("weights", 9 * GIB),)}, "the weights need 9663676416 bytes"),
        ({"max_batch_total_tokens": 4096}, "`--max-batch-total-tokens 4096` exceeds the 2048"),
    ],
)
def test_a_lack_of_memory_is_a_problem(changes, part):
    assert part in estimate(**changes).problem


def test_unknown_memory_is_not_a_problem():
    memory = estimate_memory((), (), num_shard=1, memory_fraction=1.0, model_max_tokens=0)
    assert (memory.device_bytes, memory.cache_tokens, memory.max_total_tokens) == (None, None, 4096)
    assert memory.problem == ""


def doctor(capsys, *arguments):
    code = main(["doctor", *arguments])
    return code, capsys.readouterr().out


def test_without_a_model_every_backend_is_listed(capsys):
    code, out = doctor(capsys, "--json")
    diagnosis = json.loads(out)
    assert {"null", "static", "reference"} <= {facts["name"] for facts in diagnosis["backends"]}
    served = any(facts["usable"] and facts["selectable"] for facts in diagnosis["backends"])
    assert (code, bool(diagnosis["problem"])) == (0, False) if served else (1, True)
    assert diagnosis["model"] is None


def test_a_model_and_a_named_backend(capsys, tiny_model):
    code, out = doctor(
        capsys, str(tiny_model), "--backend", "null", "--max-total-tokens", "64", "--json"
    )
    diagnosis = json.loads(out)
    assert (code, diagnosis["chosen"], diagnosis["problem"]) == (0, "null", "")
    assert diagnosis["limits"]["max_total_tokens"] == 64
    null = next(facts for facts in diagnosis["backends"] if facts["name"] == "null")
    assert (null["support"], null["reasons"]) == ("native", ["scripted tokens, no model"])
    code, out = doctor(capsys, str(tiny_model), "--backend", "null")
    assert code == 0
    assert "served by null" in out
    assert "no problem found" in out


def test_a_backend_that_cannot_serve_is_a_problem_with_its_reason(capsys, tiny_model):
    code, out = doctor(capsys, str(tiny_model), "--backend", "static", "--quantize", "int8")
    assert code == 1
    assert (
        "problem: The backend `static` cannot be used: `--quantize int8` rounds the weights to"
        " 8-bit integers while they are loaded, which the backend `static` cannot do; leave it out."
    ) in out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["a", "--prot"], "--prot"),
        (["--backend"], "--backend"),
        (["m", "--null-nothing", "1"], "m"),
    ],
)
def test_unknown_arguments_are_rejected(capsys, arguments, part):
    assert main(["doctor", *arguments]) in (1, 2)
    assert part in capsys.readouterr().err


class Explaining:
    """A backend that returns an explanation, or raises `error` if it is set."""

    def __init__(self, error=None):
        self.error = error

    @property
    def info(self):
        return BackendInfo("explaining", (1, 0), "p", "1")

    def probe(self):
        return ProbeResult(True)

    def supports(self, spec, config):
        return Support("native")

    def create_worker(self, config, host):
        raise NotImplementedError

    def explain(self, spec, config):
        if self.error is not None:
            raise self.error
        return (Implementation("attention", "fast", (("faster", "not here"),)),)


def explained(backend, tmp_path):
    candidate = Candidate("explaining", "p", "1", backend, backend.info)
    return BackendRegistry.explain(candidate, start_message(tmp_path).engine)


def test_the_registry_returns_the_explanation(tmp_path):
    assert explained(Explaining(), tmp_path) == (
        Implementation("attention", "fast", (("faster", "not here"),)),
    )


def test_an_error_in_an_explanation_is_reported_as_text(tmp_path):
    (implementation,) = explained(Explaining(RuntimeError("no driver")), tmp_path)
    assert implementation.chosen == "`explain` failed: RuntimeError: no driver"


def test_the_help_lists_doctor(capsys):
    assert main([]) == 0
    assert "doctor" in capsys.readouterr().out
