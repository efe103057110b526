"""The code on the page about torch backends runs, and its worker passes the conformance checks."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.conformance.faults.wrappers import BackendWithWorker
from tests.core.house.sources import ROOT
from tgi.testing.conformance import ALL_CHECKS, BackendUnderTest, run_check
from tgi_cpu.backend import CpuBackend
from tgi_torch.runner.device import TorchDevice

PAGE = ROOT / "docs" / "torch-backend.md"
CHECKS = {check.id: check for check in ALL_CHECKS}


@pytest.fixture(scope="module")
def page():
    """The names that the code of the page defines. The worker uses the replaced operations."""
    text = PAGE.read_text(encoding="utf-8")
    worker, operations = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(worker, names)
    replaced = dict(names)
    exec(operations, replaced)
    names["REFERENCE"] = replaced["OPS"]
    return names


@pytest.mark.parametrize("check_id", ["C-11", "C-17", "C-23", "C-28a", "C-38b", "C-61d"])
def test_the_worker_of_the_page_passes(check_id, page, tmp_path):
    backend = BackendWithWorker(CpuBackend(), page["create_worker"])
    under_test = BackendUnderTest("cpu", backend, tmp_path)
    result = run_check(CHECKS[check_id], under_test)
    under_test.discard()
    assert (result.status, result.message) == ("passed", "")


def test_the_table_of_the_page_has_every_field_of_the_device():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == list(TorchDevice.__dataclass_fields__)
