"""The null backend returns random tokens that the masks allow."""

import msgspec
import numpy as np
import pytest

from tests.core.engine.engine_setup import SPEC
from tgi.backend import (
    FEATURES,
    EngineConfig,
    GrammarMasks,
    RequestedLimits,
    SamplingParams,
    StepError,
)
from tgi.testing.conformance.backend_under_test import RecordingReporter
from tgi.testing.conformance.scripted_core import ScriptedCore
from tgi.testing.doubles.null_script import NullScript
from tgi.testing.doubles.null_worker import NullWorker

ALLOWED = (3, 40, 77, 99)


@pytest.fixture
def core():
    worker = NullWorker(EngineConfig("null", "", SPEC), NullScript(), RecordingReporter())
    worker.load()
    agreement = worker.negotiate(RequestedLimits(features=tuple(sorted(FEATURES))))
    worker.warmup()
    return ScriptedCore(worker, agreement)


def generate(core, mode, *, greedy, seed=5):
    core.mask_mode = mode
    masked = core.add([5, 6], SamplingParams(greedy=greedy), seed=seed)
    masked.allowed = (ALLOWED, None)
    plain = core.add([7, 8])
    core.generate([masked, plain], 40)
    core.drop(masked, plain)
    return masked.output, plain.output


@pytest.mark.parametrize("greedy", [True, False])
def test_masked_rows_choose_allowed_tokens_at_random(core, greedy):
    output, plain = generate(core, "inline", greedy=greedy)
    assert set(output[::2]) == set(ALLOWED)
    assert output[1::2] == [6] * 20, "a row without a mask follows the script"
    assert plain == [7, 8] * 20
    assert generate(core, "inline", greedy=greedy) == (output, plain)
    assert generate(core, "late", greedy=greedy) == (output, plain)
    if not greedy:
        assert generate(core, "inline", greedy=False, seed=6)[0] != output


def test_a_mask_without_a_token_is_an_error_of_its_row(core):
    sequences = [core.add([5, 6]), core.add([7, 8])]
    for sequence in sequences:
        sequence.allowed = (ALLOWED,)
    step = core.build(core.next_rows(sequences))
    core.rules.submit(step)
    words = step.masks.words.copy()
    words[:4] = 0
    core.worker.submit(msgspec.structs.replace(step, masks=GrammarMasks(0, step.masks.row, words)))
    core.accept(step, core.worker.collect())
    assert "allows no token" in sequences[0].error
    assert sequences[1].output[0] in ALLOWED


def test_a_step_without_its_late_masks_fails(core):
    core.mask_mode = "late"
    sequence = core.add([5, 6])
    sequence.allowed = (ALLOWED,)
    core.worker.submit(core.build({sequence: 2}))
    with pytest.raises(StepError, match="did not arrive"):
        core.worker.collect()
    assert np.array_equal(core.late_masks[0].row, [0])
