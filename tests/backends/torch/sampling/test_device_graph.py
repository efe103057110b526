"""The sampler for devices enqueues operations only: it can be captured in a graph and replayed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.backends.sampler_batches import Row
from tests.backends.torch.sampling.device_batch import DeviceBatch
from tests.backends.torch.sampling.graph_double import (
    GraphDouble,
    NoSynchronization,
    SynchronizationError,
)
from tgi.backend import SamplingParams
from tgi_torch.sampling.device.host_inputs import HostInputs, SamplerStages
from tgi_torch.sampling.device.inputs import InputLayout
from tgi_torch.sampling.device.sampler import sample
from tgi_torch.sampling.device.token_counts import TokenCounts

NUM_ROWS, VOCAB_SIZE, NUM_STEPS = 4, 75, 100
NUM_PARTS = 11
ALONE = [SamplerStages(*(part == i for part in range(NUM_PARTS))) for i in range(NUM_PARTS)]
LOGPROBS_AND_TOPS = SamplerStages(*(part >= NUM_PARTS - 2 for part in range(NUM_PARTS)))
PARTS = [SamplerStages(), *ALONE, LOGPROBS_AND_TOPS]


def random_params(rng):
    pick = lambda value, off: value if rng.random() < 0.4 else off  # noqa: E731
    return SamplingParams(
        greedy=bool(rng.random() < 0.3),
        watermark_gamma=pick(0.5, 0.0),
        watermark_delta=2.0,
        logit_bias=pick(((int(rng.integers(VOCAB_SIZE)), 3.0),), ()),
        repetition_penalty=pick(1.4, 1.0),
        relative_frequency_penalty=pick(0.7, 0.0),
        frequency_penalty=pick(0.6, 0.0),
        presence_penalty=pick(0.5, 0.0),
        temperature=pick(0.6, 1.0),
        top_k=pick(int(rng.integers(1, 80)), 0),
        top_p=pick(0.8, 1.0),
        typical_p=pick(0.8, 1.0),
        min_p=pick(0.05, 0.0),
        logprobs=rng.choice(["none", "processed", "raw"]),
        top_n_tokens=int(rng.integers(0, 5)),
    )


def random_row(rng):
    tokens = rng.integers(0, VOCAB_SIZE, rng.integers(1, 9)).astype(np.int32)
    return Row(random_params(rng), tokens, int(rng.integers(1, len(tokens) + 1)), None)


def prepare_step(rng, rows):
    """Give new logits, draws and masks to the rows."""
    for row in rows:
        row.logits = rng.normal(scale=2, size=VOCAB_SIZE).astype(np.float32)
        row.draw = np.float32(rng.integers(0, 2**24) / 2**24)
        row.allowed = rng.random(VOCAB_SIZE) < 0.5 if rng.random() < 0.4 else None


def join_and_leave(rng, rows):
    """Return the rows of the next batch: some leave, and some join."""
    rows = [row for row in rows if rng.random() < 0.7]
    while len(rows) < 1 or (len(rows) < NUM_ROWS and rng.random() < 0.6):
        rows.append(random_row(rng))
    return rows


def mismatches(sampler, seed=0):
    """Compare a captured graph with eager runs. Returns the steps with different results.

    `sampler` is called with a `DeviceBatch`. Both sides see the same inputs in each step.
    """
    rng = np.random.default_rng(seed)
    captured, eager = (DeviceBatch(NUM_ROWS, VOCAB_SIZE) for _ in range(2))
    graph, rows = GraphDouble(), []
    with graph:
        outputs = sampler(captured)
    different = []
    for step in range(NUM_STEPS):
        if step % 5 == 0:
            rows = join_and_leave(rng, rows)
            for batch in (captured, eager):
                batch.join(rows)
        prepare_step(rng, rows)
        for batch in (captured, eager):
            batch.prepare(rows)
        graph.replay()
        expected = sampler(eager)
        is_equal = torch.equal(outputs.packed, expected.packed) and all(
            torch.equal(getattr(captured.counts, name), getattr(eager.counts, name))
            for name in ("context", "output")
        )
        if not is_equal:
            different.append(step)
        for i, row in enumerate(rows):
            row.tokens = np.append(row.tokens, expected.tokens[i].item()).astype(np.int32)
    return different


def test_a_replayed_graph_equals_eager_runs():
    assert not mismatches(DeviceBatch.sample)


def baked_length(batch):
    """Sample with the length of the first row as a number of Python."""
    length = int(batch.inputs.lengths.numpy()[0])
    lengths = torch.full_like(batch.inputs.lengths, length)
    inputs = replace(batch.inputs, lengths=lengths)
    return sample(batch.logits, inputs, batch.counts)


def moved_draws(batch):
    """Sample with a copy of the draws that was made before the capture."""
    draws = torch.from_numpy(batch.inputs.draws.numpy().copy())
    return sample(batch.logits, replace(batch.inputs, draws=draws), batch.counts)


def replace(inputs, **changes):
    return type(inputs)(**{**vars(inputs), **changes})


@pytest.mark.parametrize("fault", [baked_length, moved_draws])
def test_a_value_that_is_fixed_at_the_capture_is_found(fault):
    assert mismatches(fault)


def read_by_the_host(batch):
    """Sample with a number that the host reads from the device."""
    longest = batch.inputs.lengths.max().item()
    lengths = batch.inputs.lengths.clamp(max=longest)
    return sample(batch.logits, replace(batch.inputs, lengths=lengths), batch.counts)


def test_a_host_read_in_the_capture_is_found():
    with pytest.raises(SynchronizationError, match="_local_scalar_dense"):
        mismatches(read_by_the_host)


@pytest.mark.parametrize("stages", PARTS)
def test_no_part_synchronizes(stages):
    rng = np.random.default_rng(1)
    batch, rows = DeviceBatch(NUM_ROWS, VOCAB_SIZE), [random_row(rng) for _ in range(3)]
    prepare_step(rng, rows)
    batch.join(rows)
    batch.prepare(rows)
    with NoSynchronization():
        batch.sample(stages)


def test_the_number_of_operations_does_not_depend_on_the_values():
    rng = np.random.default_rng(2)
    counted = set()
    for _ in range(10):
        batch, rows = DeviceBatch(NUM_ROWS, VOCAB_SIZE), join_and_leave(rng, [])
        prepare_step(rng, rows)
        batch.join(rows)
        batch.prepare(rows)
        with NoSynchronization() as mode:
            batch.sample()
        counted.add(mode.num_operations)
    assert len(counted) == 1


FAULTS = {
    "item": lambda x: x * x.max().item(),
    "bool": lambda x: x if (x > 0).any() else -x,
    "nonzero": lambda x: (x > 0).nonzero(),
    "boolean index": lambda x: x[x > 0],
    "boolean assignment": lambda x: x.clone().__setitem__(x > 0, 0.0),
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "unique_consecutive": lambda x: x.unique_consecutive(),
    "equal": lambda x: torch.equal(x, x + 1),
    "sort": lambda x: x.sort(),
    "stable sort": lambda x: x.sort(stable=True, dim=-1),
    "argsort": lambda x: x.argsort(-1),
    "repeat_interleave": lambda x: x.repeat_interleave(torch.ones(4, dtype=torch.int64), dim=0),
}


@pytest.mark.parametrize("mode", [NoSynchronization, GraphDouble])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_synchronization_is_found(fault, mode):
    scores = torch.randn(4, 5)
    with mode(), pytest.raises(SynchronizationError):
        FAULTS[fault](scores)


def on_fake_device(stages, fault=lambda logits: None, device="cuda"):
    """Run the sampler on a fake device, for which a copy to the host is visible."""
    params = [random_params(np.random.default_rng(3)) for _ in range(NUM_ROWS)]
    layout = InputLayout(NUM_ROWS, VOCAB_SIZE, 16)
    HostInputs(layout).write_rows(params, range(NUM_ROWS), NUM_ROWS)
    with FakeTensorMode():
        device = torch.device(device)
        buffer = torch.zeros(layout.num_words, dtype=torch.int32, device=device)
        inputs = layout.views(buffer, torch.zeros(NUM_ROWS, dtype=torch.int32, device=device))
        counts = TokenCounts(NUM_ROWS, VOCAB_SIZE, device)
        logits = torch.zeros(NUM_ROWS, VOCAB_SIZE, device=device)
        with NoSynchronization():
            outputs = sample(logits, inputs, counts, stages)
            fault(logits)
        return outputs


@pytest.mark.parametrize("device", ["cuda", "xpu"])
@pytest.mark.parametrize("stages", PARTS)
def test_all_operations_run_on_the_device(stages, device):
    outputs = on_fake_device(stages, device=device)
    num_tops = 64 if stages.logprobs and stages.top_tokens else 0
    for tensor, shape in (
        (outputs.tokens, (NUM_ROWS,)),
        (outputs.packed, (NUM_ROWS, 4 + 2 * num_tops)),
    ):
        assert (tensor.device.type, tensor.dtype, tensor.shape) == (device, torch.int32, shape)


COPIES = {
    "to the host": lambda x: x.cpu(),
    "from the host": lambda x: torch.ones(3).to(x.device),
    "new constant": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "into the host's memory": lambda x: torch.empty(x.shape).copy_(x),
    "mixed devices": lambda x: x + torch.ones(x.shape[-1]),
    "to numpy": lambda x: x.cpu().numpy(),
    "tolist": lambda x: x.tolist(),
    "item": lambda x: x.max().item(),
    "scalar to the host": lambda x: x.max().cpu(),
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_between_host_and_device_is_found(name):
    with pytest.raises(SynchronizationError):
        on_fake_device(SamplerStages(), COPIES[name])
