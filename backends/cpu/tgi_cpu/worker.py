"""The heavy half of the CPU backend: torch's shared worker over this machine's processors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tgi.backend import EngineConfig, Host, Worker
from tgi_cpu import machine
from tgi_torch.sampling import SamplingKernels
from tgi_torch.worker import TorchDevice, TorchWorker

__all__ = ["create_worker"]

_BLOCK_SIZE = 16  # blocks are gathered by index, so small ones cost nothing and share more of a common prompt
_MAX_STEP_TOKENS = 1024  # matrix products are at full rate from some 500 rows on; more only makes running streams wait


def create_worker(config: EngineConfig, host: Host) -> Worker:
    """A worker that computes on all processors this process may use."""
    threads = machine.num_threads()
    torch.set_num_threads(threads)
    device = TorchDevice(
        device=torch.device("cpu"),
        block_size=_BLOCK_SIZE,
        max_step_tokens=_MAX_STEP_TOKENS,
        free_bytes=machine.free_memory,
        facts={
            "device": "cpu",
            "attention": "paged, torch scaled_dot_product_attention",
            "threads": str(threads),
            "isa": " ".join(machine.instruction_sets()) or "unknown",
        },
        sampling=SamplingKernels(argmax=_argmax, sort=_sort),
    )
    return TorchWorker(config, host, device)


def _argmax(scores: Tensor) -> Tensor:
    """Numpy finds the first maximum with vector instructions, some ten times faster than torch."""
    return torch.from_numpy(scores.numpy().argmax(-1))


def _sort(values: Tensor) -> Tensor:
    """By numpy, which sorts values alone with vector instructions, some thirty times faster than torch."""
    return torch.from_numpy(np.sort(values.numpy(), -1))
