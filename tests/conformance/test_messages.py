"""A failed check reports enough to reproduce it. A run without checks or with unknown options is an
error.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conformance.faults.at_borders import last_row_wrong
from tests.conformance.faults.cached import in_cached
from tests.conformance.faults.wrappers import FaultyBackend
from tgi.backend import BackendError, SamplingParams
from tgi.cli.new_backend import render_template
from tgi.testing.conformance import ALL_CHECKS, BackendUnderTest, find_backend_under_test, run_check
from tgi.testing.conformance.backend_under_test import prompt_of
from tgi.testing.conformance.expectations import check_sequences
from tgi.testing.conformance.require import CheckFailedError
from tgi.testing.conformance.scheduled import ScheduledRun

CHECKS = {check.id: check for check in ALL_CHECKS}


def test_a_difference_names_row_batch_chunks_and_seed(tmp_path):
    under_test = BackendUnderTest("reference", last_row_wrong(2), tmp_path)
    with under_test.serving(under_test.models.get()) as core:
        sequences = [core.add(prompt_of(9, seed=i), seed=70 + i) for i in range(3)]
        core.advance(dict.fromkeys(sequences, 5))
        core.generate(sequences, 2)
        with pytest.raises(CheckFailedError) as failure:
            check_sequences(under_test.models.get(), sequences, core.agreement)
    message = str(failure.value)
    prompt = ", ".join(map(str, prompt_of(9, seed=2)))
    for part in (
        "output token 0, row 2 of a batch of 3 in step 1",
        f"prompt of 9 tokens [{prompt}]",
        "in chunks of 5 + 4",
        "seed 72",
    ):
        assert part in message


def test_a_difference_under_the_real_scheduler_names_row_and_batch(tmp_path):
    under_test = BackendUnderTest("reference", last_row_wrong(1), tmp_path)
    with under_test.serving(under_test.models.get()) as core:
        run = ScheduledRun(core.worker, core.agreement)
        for seed in range(2):
            run.add(prompt_of(7, seed=seed), 3, SamplingParams(), seed=40 + seed)
        run.finish()
        with pytest.raises(CheckFailedError) as failure:
            check_sequences(under_test.models.get(), run.ended, core.agreement)
    assert "row 1 of a batch of 2" in str(failure.value)
    assert "in chunks of 7" in str(failure.value)
    assert "seed 41" in str(failure.value)


@pytest.mark.parametrize(
    "error", [ValueError("no such kernel"), BackendError("The device is lost.")]
)
def test_an_exception_of_a_worker_has_its_traceback(error, tmp_path):
    def fail_in_the_kernel(batch):
        raise error

    backend = in_cached(fail_in_the_kernel)
    result = run_check(CHECKS["C-17"], BackendUnderTest("reference", backend, tmp_path))
    assert result.status == "failed"
    assert f"{type(error).__name__}: {error}" in result.message
    assert "in fail_in_the_kernel" in result.message


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("static", {"x": "y"}, ("no option `x`", "variant")),
        ("static", {"Variant": "poor"}, ("no option `Variant`", "variant")),
        ("static", {"variant": "por"}, ("cannot be `por`", "full, poor")),
        ("complete", {"x": "y"}, ("no option `x`", "none")),
    ],
)
def test_unknown_options_are_rejected(name, options, words, tmp_path):
    with pytest.raises(BackendError) as failure:
        find_backend_under_test(name, tmp_path, options)
    assert [word for word in words if word not in str(failure.value)] == []


def run_pytest(folder, *arguments):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_suite_without_a_backend_fails(tmp_path):
    (tmp_path / "test_it.py").write_text(render_template("x")["tests/test_conformance.py"])
    done = run_pytest(tmp_path, "-k", "C-01", "test_it.py")
    assert done.returncode == 1
    assert "No backend is named" in done.stdout


def test_the_tests_of_a_new_package_name_its_backend(tmp_path):
    for path, text in render_template("static").items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    done = run_pytest(tmp_path, "-k", "C-02")
    assert "static (" in done.stdout, done.stdout
    assert "1 passed" in done.stdout


def test_the_error_of_a_backend_is_not_taken_for_a_difference(tmp_path):
    """An assertion of the backend is reported with its traceback, also in checks of families."""

    class Asserting(FaultyBackend):
        def create_worker(self, config, reporter):
            assert config.spec.model_type == "llama"
            return super().create_worker(config, reporter)

    result = run_check(CHECKS["C-31"], BackendUnderTest("reference", Asserting(), tmp_path))
    assert result.status == "failed"
    assert "in create_worker" in result.message
