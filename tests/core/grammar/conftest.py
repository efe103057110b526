"""Vocabularies for tests of grammars."""

import pytest

from tests.core.grammar.walks import byte_vocabulary


@pytest.fixture(scope="session")
def vocabulary():
    """A vocabulary with one token per byte, a few longer tokens and special tokens."""
    return byte_vocabulary()
