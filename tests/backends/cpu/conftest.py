"""What every test of the torch code needs."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tiny models gain nothing from threads, and threads that wait for a busy processor cost most of the time."""
    torch.set_num_threads(1)
