"""Tests of the conformance suite: the reference passes, and each fault is detected by its check."""

from __future__ import annotations

import signal

import pytest

from tests.conformance.faults.accuracy import ACCURACY_FAULTS, HALF_CHECKS, HEALTHY_ACCURACY
from tests.conformance.faults.at_borders import BORDER_FAULTS, HEALTHY_AT_BORDERS
from tests.conformance.faults.cached import HALF
from tests.conformance.faults.catalogue import FAULTS, HEALTHY
from tests.conformance.faults.feature_wrappers import faulty_complete
from tests.conformance.faults.features import FEATURE_FAULTS
from tests.conformance.faults.overlapping import OVERLAPPING_FAULTS
from tests.conformance.faults.snapshots import SNAPSHOT_FAULTS
from tests.conformance.faults.wrappers import FaultyBackend
from tgi.testing.conformance import ALL_CHECKS, BackendUnderTest, run_check
from tgi.testing.conformance.models import TinyModels
from tgi.testing.doubles.late_part import LatePart

HEALTHY_LATE = faulty_complete(wrap=LatePart)
CHECKS = {check.id: check for check in ALL_CHECKS}
ALL_FAULTS = (
    FAULTS | FEATURE_FAULTS | SNAPSHOT_FAULTS | OVERLAPPING_FAULTS | BORDER_FAULTS | ACCURACY_FAULTS
)
HEALTHY_BACKENDS = (
    {check_id: faulty_complete() for _, check_id in (FEATURE_FAULTS | SNAPSHOT_FAULTS).values()}
    | {check_id: HEALTHY_LATE for _, check_id in OVERLAPPING_FAULTS.values()}
    | HEALTHY_AT_BORDERS
    | HEALTHY_ACCURACY
    | HEALTHY
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return TinyModels(tmp_path_factory.mktemp("models"))


@pytest.fixture
def make_backend_under_test(tmp_path, models):
    """A backend under test that shares its tiny models with the other tests."""
    subjects = []

    def make(backend):
        under_test = BackendUnderTest("reference", backend, tmp_path)
        under_test.models = models
        subjects.append(under_test)
        return under_test

    handler = signal.getsignal(signal.SIGTERM)
    yield make
    signal.signal(signal.SIGTERM, handler)
    for under_test in subjects:
        under_test.discard()


@pytest.mark.parametrize("check_id", sorted({check_id for _, check_id in ALL_FAULTS.values()}))
def test_without_a_fault_the_check_passes(check_id, make_backend_under_test):
    result = run_check(
        CHECKS[check_id], make_backend_under_test(HEALTHY_BACKENDS.get(check_id, FaultyBackend()))
    )
    assert (result.status, result.message) == ("passed", "")


@pytest.mark.parametrize("check_id", HALF_CHECKS)
def test_a_backend_in_bfloat16_passes(check_id, make_backend_under_test):
    result = run_check(CHECKS[check_id], make_backend_under_test(HALF))
    assert (result.status, result.message) == ("passed", "")


@pytest.mark.parametrize("fault", ALL_FAULTS)
def test_a_fault_is_detected(fault, make_backend_under_test, models):
    backend, check_id = ALL_FAULTS[fault]
    result = run_check(CHECKS[check_id], make_backend_under_test(backend))
    (models.get().path / "cache.bin").unlink(missing_ok=True)
    assert result.status == "failed", f"{check_id} did not detect it"
    assert result.message
