"""The conformance suite on the backends of this repository gives the committed scorecards."""

from __future__ import annotations

import pytest

from tests.core.house.sources import ROOT
from tgi.backend import FEATURES
from tgi.testing.conformance import (
    ALL_CHECKS,
    GRADES,
    Check,
    Result,
    Scorecard,
    find_backend_under_test,
    run_checks,
)
from tgi.testing.conformance.matrix import render_matrix

CARDS = ROOT / "docs" / "backends"


@pytest.mark.parametrize(
    ("name", "card", "options"),
    [
        ("static", "static", {}),
        ("static", "static-poor", {"variant": "poor"}),
        ("complete", "complete", {}),
        ("complete-late", "complete-late", {}),
        ("cpu", "cpu", {}),
    ],
)
def test_the_scorecard_is_the_committed_one(name, card, options, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    scorecard = run_checks(find_backend_under_test(name, tmp_path, options))
    assert [f"{result.check.id}: {result.message}" for result in scorecard.failed] == []
    assert scorecard.grade == "robust"
    committed = (CARDS / f"{card}.json").read_text(encoding="utf-8")
    assert scorecard.to_json() == committed, (
        f"run: tgi conformance {name} --json docs/backends/{card}.json"
    )


def test_the_matrix_is_generated_from_the_scorecards():
    page = (CARDS / "README.md").read_text(encoding="utf-8")
    assert page == render_matrix(CARDS), (
        "run: python -m tgi.testing.conformance.matrix docs/backends"
    )


def test_every_feature_has_a_check():
    """All features except `profile`, whose effects only tools of the device can see."""
    assert {check.feature for check in ALL_CHECKS} - {""} == FEATURES - {"profile"}


def test_checks_are_numbered_once_and_graded():
    ids = [check.id for check in ALL_CHECKS]
    assert len(ids) == len(set(ids))
    assert {check.grade for check in ALL_CHECKS} == set(GRADES)
    assert all((check.grade == "features") == bool(check.feature) for check in ALL_CHECKS)


@pytest.mark.parametrize(
    ("statuses", "grade"),
    [
        (("passed", "passed", "passed", "passed", "failed"), "robust"),
        (("passed", "passed", "failed", "passed", "passed"), "basic"),
        (("passed", "not applicable", "passed", "failed", "passed"), "serving"),
        (("failed", "passed", "passed", "passed", "passed"), ""),
    ],
)
def test_a_level_requires_all_lower_levels(statuses, grade):
    checks = [Check(f"C-0{i}", name, "", lambda _: None) for i, name in enumerate(GRADES)]
    results = [Result(check, status) for check, status in zip(checks, statuses, strict=True)]
    assert Scorecard("a", "p", "1", (1, 0), None, results, len(checks)).grade == grade


@pytest.mark.parametrize("count", [1, 2, len(ALL_CHECKS) - 1])
def test_a_partial_run_gives_no_level(count):
    results = [Result(check, "passed") for check in ALL_CHECKS[:count]]
    card = Scorecard("a", "p", "1", (1, 0), None, results, len(ALL_CHECKS))
    assert card.grade == ""
    assert f"only {count} of {len(ALL_CHECKS)} checks" in card.summary


def test_one_check_repeated_is_not_a_complete_run():
    results = [Result(ALL_CHECKS[0], "passed")] * len(ALL_CHECKS)
    assert not Scorecard("a", "p", "1", (1, 0), None, results, len(ALL_CHECKS)).is_complete
