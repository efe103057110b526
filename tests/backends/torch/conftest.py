"""Fixtures for the tests that load weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.backends.checkpoints import save_checkpoint


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of llama. Tests must not change it."""
    path = tmp_path_factory.mktemp("llama")
    save_checkpoint("llama", path)
    return path


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    """A copy of `original`, which a test may change."""
    return shutil.copytree(original, tmp_path / "checkpoint")
