"""Runs the sampler for devices on batches of `tests.backends.sampler_batches`."""

from __future__ import annotations

import numpy as np
import torch

from tests.backends.sampler_batches import pack
from tgi_torch.sampling.device.host_inputs import ALL_STAGES, HostInputs, SamplerStages
from tgi_torch.sampling.device.inputs import InputLayout
from tgi_torch.sampling.device.sampler import read_outputs, sample
from tgi_torch.sampling.device.token_counts import TokenCounts


class DeviceBatch:
    """Static tensors for at most `num_rows` rows, whose values change in place with each step.

    Row i uses slot i of the counts.
    """

    def __init__(self, num_rows, vocab_size, num_biases=16, device="cpu"):
        self.layout = InputLayout(num_rows, vocab_size, num_biases)
        self.host = HostInputs(self.layout)
        # Old words of earlier steps must have no effect.
        self.host.buffer[:] = np.random.default_rng(0).integers(
            -(2**31), 2**31, self.layout.num_words
        )
        self.buffer = torch.zeros(self.layout.num_words, dtype=torch.int32, device=device)
        previous = torch.zeros(num_rows, dtype=torch.int32, device=device)
        self.inputs = self.layout.views(self.buffer, previous)
        self.counts = TokenCounts(num_rows, vocab_size, torch.device(device))
        self.logits = torch.zeros(num_rows, vocab_size, device=device)

    def join(self, rows, params=None):
        """Write the parameters of new rows, and count their tokens."""
        params = params or [row.sampling for row in rows]
        self.host.write_rows(params, range(len(rows)), self.counts.spare_slot)
        for slot, row in enumerate(rows):
            self.counts.start(slot, row.tokens, row.num_prompt_tokens)

    def prepare(self, rows, *, is_late=False):
        """Write the inputs of one step, and copy them to the device tensors."""
        self.host.write_step(
            np.array([row.draw for row in rows], np.float32),
            np.array([row.length for row in rows], np.int32),
        )
        masked = [i for i, row in enumerate(rows) if row.allowed is not None]
        if is_late:
            self.buffer.copy_(torch.from_numpy(self.host.buffer))
        words = np.array([pack(rows[i].allowed) for i in masked], np.int32)
        part = self.host.write_masks(
            np.array(masked, np.int32), words.reshape(-1, self.layout.mask_width)
        )
        part = part if is_late else slice(0, part.stop)
        self.buffer[part].copy_(torch.from_numpy(self.host.buffer[part]))
        for i, row in enumerate(rows):
            self.inputs.previous[i] = int(row.tokens[-1])
            self.logits[i].copy_(torch.from_numpy(row.logits))

    def sample(self, stages=ALL_STAGES):
        return sample(self.logits, self.inputs, self.counts, stages)


def needed_stages(rows):
    return SamplerStages.needed_by(
        [row.sampling for row in rows], any(row.allowed is not None for row in rows)
    )


def run(rows, num_rows=None, stages=ALL_STAGES, *, is_late=False):
    """Sample one token per row, and return the result on the host."""
    num_biases = sum(len(row.sampling.logit_bias) for row in rows) + 1
    batch = DeviceBatch(num_rows or len(rows), len(rows[0].logits), num_biases)
    batch.join(rows)
    batch.prepare(rows, is_late=is_late)
    before = batch.logits.clone()
    outputs = batch.sample(stages)
    assert torch.equal(batch.logits.nan_to_num(), before.nan_to_num()), "the logits were changed"
    result = read_outputs(outputs.packed.numpy(), len(rows))
    assert outputs.tokens[: len(rows)].tolist() == result.tokens.tolist()
    return result
