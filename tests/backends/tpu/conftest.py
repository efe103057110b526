"""What every test of the TPU backend needs."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="session", autouse=True)
def compiled_quickly() -> Iterator[None]:
    """Tiny models compile for seconds and run for milliseconds: XLA need not work hard on them."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
