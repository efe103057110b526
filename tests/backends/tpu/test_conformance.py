"""The conformance suite on JAX's CPU platform equals the committed scorecard."""

from __future__ import annotations

from tests.core.house.sources import ROOT
from tgi.testing.conformance import find_backend_under_test, run_checks

CARD = ROOT / "docs" / "backends" / "tpu.json"
OPTIONS = {"platform": "cpu", "token-buckets": "16,128"}


def test_the_scorecard_is_the_committed_one(tmp_path):
    scorecard = run_checks(find_backend_under_test("tpu", tmp_path, OPTIONS))
    assert [f"{result.check.id}: {result.message}" for result in scorecard.failed] == []
    assert scorecard.grade == "robust"
    command = (
        "tgi conformance tpu --option platform=cpu --option token-buckets=16,128 --json"
        " docs/backends/tpu.json"
    )
    assert scorecard.to_json() == CARD.read_text(encoding="utf-8"), f"run: {command}"
