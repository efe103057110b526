"""The model formats that the installed backends support, and the files that they require."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

from tgi.backend import GGUF, SAFETENSORS, ModelFilesWanted, ModelFormat
from tgi.plugins import AUTO, BackendRegistry, Candidate

__all__ = ["FoundWeights", "ReadableFormats", "installed_formats", "usable_formats"]

_KNOWN = (SAFETENSORS, GGUF)
"""Formats that are recognized even if no installed backend supports them."""


@final
@dataclass(frozen=True)
class FoundWeights:
    """Files with weights in one format. `is_readable` is True if a candidate supports the
    format.
    """

    model_format: ModelFormat
    files: tuple[str, ...]
    is_readable: bool


@final
@dataclass(frozen=True)
class ReadableFormats:
    """The formats that `candidates` support. The preferred candidate is first. Other installed
    backends are used only to recognize formats that no candidate supports.
    """

    registry: BackendRegistry
    candidates: tuple[Candidate, ...]

    @property
    def formats(self) -> tuple[ModelFormat, ...]:
        """The formats in order of preference, without duplicates."""
        return tuple(_by_name(form for wanted in self._wanted for form in wanted.formats))

    def patterns(self, model_format: ModelFormat) -> tuple[str, ...]:
        """Return the file name patterns of all required files except the weights. The first
        candidate that supports the format defines these patterns.
        """
        wanted = (w for w in self._wanted if w.reads(model_format.name))
        return next(wanted, ModelFilesWanted()).patterns

    def recognize(self, file_name: str) -> ModelFormat | None:
        """Return the format of the weight file with this name, or None if no format matches."""
        return next((form for form in self._all_formats() if form.matches(file_name)), None)

    def find_weights(self, file_names: Sequence[str]) -> FoundWeights | None:
        """Return all weight files in one format. This is the most preferred format in which files
        exist. Returns None if no file is in a known format.
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
        """Yield the formats of the candidates, then the formats in `_KNOWN`, then the formats of
        all other backends. No format is yielded twice.
        """
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
    """Return the formats of the backends that can be used on this machine. With `auto` these are
    all backends that can be selected, otherwise only the named backend. Raises `BackendError` if no
    backend can be used.
    """
    return ReadableFormats(registry, registry.usable(backend))


def installed_formats(registry: BackendRegistry, backend: str = AUTO) -> ReadableFormats:
    """Return the formats of all installed backends, even if a backend cannot be used on this
    machine. The order is: the named backend, the backends that `auto` can select, and all other
    backends.
    """

    def rank(candidate: Candidate) -> tuple[bool, bool, int]:
        info = candidate.info
        is_eligible = candidate.usable and info is not None and info.selectable
        return candidate.name != backend, not is_eligible, -candidate.priority

    return ReadableFormats(registry, tuple(sorted(registry.candidates(), key=rank)))


def _by_name(formats: Iterable[ModelFormat]) -> Iterable[ModelFormat]:
    return {form.name: form for form in formats}.values()
