"""The kernels compile for GPUs that this machine does not have, and use their matrix units,
registers and shared memory as intended.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.backends.triton.compiled_kernels import KERNELS

# The shared memory that a program may use, in bytes: CUDA C++ Programming Guide, table "Technical
# specifications per compute capability", and the ISA documents of AMD.
SHARED_BYTES = {
    "sm_75": 64 << 10,
    "sm_80": 163 << 10,
    "sm_86": 99 << 10,
    "sm_89": 99 << 10,
    "sm_90": 227 << 10,
    "sm_100": 227 << 10,
    "sm_103": 227 << 10,
    "sm_120": 99 << 10,
    "gfx90a": 64 << 10,
    "gfx942": 64 << 10,
    "gfx950": 160 << 10,
    "gfx1100": 64 << 10,
    "gfx1201": 64 << 10,
    "gfx1250": 64 << 10,
}
IN_CI = ("sm_80", "sm_90", "gfx942")
WITH_PRODUCTS = {name for name in KERNELS if name.startswith(("decode", "prefill", "product"))}
# Triton has no matrix instructions for compute capability 7.5, so products use ordinary arithmetic.
WITHOUT_MATRIX_UNITS = {"sm_75"}
# Kernels that a target does not use, with the reason.
EXCLUDED = {
    ("gfx1100", "decode-latent"): "the tile of 576 values does not fit into the registers",
    ("gfx1201", "decode-latent"): "the tile of 576 values does not fit into the registers",
    ("gfx1250", "decode-latent"): "the tile of 576 values does not fit into the registers",
    ("sm_75", "decode-latent"): "the tile of 576 values does not fit into 64 KiB of shared memory",
}


def compile_for(*targets):
    environment = {name: os.environ[name] for name in os.environ if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-m", "tests.backends.triton.compiled_kernels", *targets],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def problems(facts):
    target, kernel = facts["target"], facts["kernel"]
    if (target, kernel) in EXCLUDED:
        return []
    has_units = target not in WITHOUT_MATRIX_UNITS
    checks = {
        "spills registers": facts["spilled"] == 0,
        "uses too much shared memory": facts["shared_bytes"] <= SHARED_BYTES[target],
        "uses no matrix instruction": bool(facts["matrix_instructions"])
        or kernel not in WITH_PRODUCTS
        or not has_units,
    }
    return [f"{kernel} on {target} {problem}: {facts}" for problem, ok in checks.items() if not ok]


def check(*targets):
    found = compile_for(*targets)
    assert len(found) == len(targets) * len(KERNELS)
    assert not [problem for facts in found for problem in problems(facts)]


def test_common_gpus():
    check(*IN_CI)


@pytest.mark.long
@pytest.mark.parametrize("target", sorted(SHARED_BYTES.keys() - set(IN_CI)))
def test_all_gpus(target):
    check(target)


def test_problems_are_found():
    good = {
        "kernel": "decode",
        "target": "sm_80",
        "spilled": 0,
        "shared_bytes": 1000,
        "matrix_instructions": 4,
    }
    assert not problems(good)
    for change in ({"spilled": 8}, {"shared_bytes": 164 << 10}, {"matrix_instructions": 0}):
        assert len(problems(good | change)) == 1
