"""The checks of killed and hanging engines, which need an installed backend."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

BACKEND = """
import subprocess, sys, signal
from dataclasses import dataclass
import msgspec
from tgi.backend import hookimpl
from tgi.testing.doubles.reference_backend import ReferenceBackend

struct = msgspec.structs.replace


class FaultyBackend:
    @property
    def info(self):
        return struct(ReferenceBackend().info, name="faulty", package="tgi-faulty", version="1")

    def probe(self):
        return ReferenceBackend().probe()

    def supports(self, spec, config):
        return ReferenceBackend().supports(spec, config)

    def create_worker(self, config, host):
        worker = ReferenceBackend().create_worker(config, host)
        {fault}
        return worker


@hookimpl
def tgi_backend():
    return FaultyBackend()
"""

FAULTS = {
    "no fault": ("pass", {"C-51": "passed", "C-52": "passed"}),
    "a process outlives its engine": (
        (
            'subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"], stdout=-3,'
            " stderr=-3)"
        ),
        {"C-51": "left processes: "},
    ),
    "another output after a restart": (
        (
            "import os; model = worker._part._model; model._spec = struct(model._spec,"
            " head=struct(model._spec.head, scale=-1.0)) if os.path.exists(config.cache_dir"
            " + '/second') else open(config.cache_dir + '/second', 'w').close() or model._spec"
        ),
        {"C-52": "the reference chose"},
    ),
}


@pytest.fixture
def install(tmp_path):
    """Install a package with the fault."""

    def put(fault):
        (tmp_path / "tgi_faulty.py").write_text(BACKEND.replace("{fault}", fault))
        info = tmp_path / "tgi_faulty-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tgi-faulty\nVersion: 1\n")
        (info / "entry_points.txt").write_text("[tgi.backends]\nfaulty = tgi_faulty\n")
        return os.environ | {"PYTHONPATH": str(tmp_path), "COLUMNS": "250"}

    return put


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_killed_or_hanging_engines_are_detected(fault, install):
    code, expected = FAULTS[fault]
    command = [sys.executable, "-m", "tgi", "conformance", "faulty", "--only", ",".join(expected)]
    done = subprocess.run(command, env=install(code), capture_output=True, text=True, check=False)
    assert done.returncode == (0 if fault == "no fault" else 1), done.stdout + done.stderr
    for text in expected.values():
        assert text in done.stdout
