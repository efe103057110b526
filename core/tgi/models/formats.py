"""The model formats that the backends read, and the files that they need, in preferred order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

from tgi.backend import GGUF, SAFETENSORS, ModelFilesWanted, ModelFormat
from tgi.plugins import AUTO, BackendRegistry, Candidate

__all__ = ["FoundWeights", "ReadableFormats", "installed_formats", "usable_formats"]

_KNOWN = (SAFETENSORS, GGUF)
"""Formats that are recognized even if no installed backend reads them."""


@final
@dataclass(frozen=True)
class FoundWeights:
    """Files with weights in one format. `is_readable`: one of the candidates reads the format."""

    model_format: ModelFormat
    files: tuple[str, ...]
    is_readable: bool


@final
@dataclass(frozen=True)
class ReadableFormats:
    """The formats that `candidates` read; the preferred candidate comes first. The other installed
    backends are loaded only to recognize a format that no candidate reads.
    """

    registry: BackendRegistry
    candidates: tuple[Candidate, ...]

    @property
    def formats(self) -> tuple[ModelFormat, ...]:
        """The formats in order of preference, each once."""
        return tuple(_by_name(form for wanted in self._wanted for form in wanted.formats))

    def patterns(self, model_format: ModelFormat) -> tuple[str, ...]:
        """File name patterns of everything but the weights, as wanted by the first candidate that
        reads the format.
        """
        wanted = (w for w in self._wanted if w.reads(model_format.name))
        return next(wanted, ModelFilesWanted()).patterns

    def recognize(self, file_name: str) -> ModelFormat | None:
        """The format of a file with weights, by its name; None for other files."""
        return next((form for form in self._all_formats() if form.matches(file_name)), None)

    def find_weights(self, file_names: Sequence[str]) -> FoundWeights | None:
        """The files with weights in the most preferred format of which there are any. None if no
        file is in a known format.
        """
        readable = {form.name for form in self.formats}
        for form in self._all_formats():
            if files := tuple(sorted(filter(form.matches, file_names))):
                return FoundWeights(form, files, form.name in readable)
        return None

    @property
    def _wanted(self) -> tuple[ModelFilesWanted, ...]:
        wanted = tuple(c.info.model_files for c in self.candidates if c.info is not None)
        return wanted or (ModelFilesWanted(),)

    def _all_formats(self) -> Iterator[ModelFormat]:
        """Formats of the candidates, then other known ones, then those of other backends."""
        seen = set[str]()
        for form in (*self.formats, *_KNOWN, *self._others()):
            if form.name not in seen:
                seen.add(form.name)
                yield form

    def _others(self) -> Iterator[ModelFormat]:
        for candidate in self.registry.candidates():
            if candidate.info is not None:
                yield from candidate.info.model_files.formats


def usable_formats(registry: BackendRegistry, backend: str) -> ReadableFormats:
    """The formats of the backends that may serve here: of the named one, or of those among which
    `auto` chooses. Raises `BackendError` if no backend can be used.
    """
    return ReadableFormats(registry, registry.usable(backend))


def installed_formats(registry: BackendRegistry, backend: str = AUTO) -> ReadableFormats:
    """The formats of all installed backends, whether or not they can be used on this machine: first
    the named backend, then those among which `auto` chooses, then the others.
    """

    def rank(candidate: Candidate) -> tuple[bool, bool, int]:
        info = candidate.info
        is_eligible = candidate.usable and info is not None and info.selectable
        return candidate.name != backend, not is_eligible, -candidate.priority

    return ReadableFormats(registry, tuple(sorted(registry.candidates(), key=rank)))


def _by_name(formats: Iterable[ModelFormat]) -> Iterable[ModelFormat]:
    return {form.name: form for form in formats}.values()
