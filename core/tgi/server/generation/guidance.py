"""Compiles the constraints of requests in the front end, so that an invalid constraint is rejected
before its sequence is queued. The engine compiles the same grammar for its masks.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, final

from tgi.errors import ValidationError
from tgi.grammar.constraint import Constraint, GrammarError
from tgi.server.generation.constraints import check_schema, tgi_constraint
from tgi.server.generation.parameters import Grammar, TextRequest
from tgi.server.state import Engine
from tgi.text.grammar_vocabulary import VocabularyReader
from tgi.types import Guidance, ReasoningLimits

if TYPE_CHECKING:
    from tgi.grammar.vocabulary import Vocabulary

__all__ = ["CompiledGrammars", "GrammarSteps", "GuidanceCompiler"]

_MAX_GRAMMARS = 256
_MAX_CHARACTERS = 16_000_000  # maximum length of all cached grammars together
_NUM_THREADS = 2
_Source = Constraint | Grammar
_TGI_FIELDS = ("grammar", "response_format")  # their errors have TGI's text


@final
class GrammarSteps:
    """The steps that run in threads. Tests replace this object."""

    def compile(self, constraint: _Source, vocabulary: Vocabulary) -> str:
        """Compile a constraint and check its grammar. Raises `GrammarError`, and `ValidationError`
        for a constraint of TGI that is not supported.
        """
        # llguidance is imported here, so that the startup does not wait for the import.
        from tgi.grammar.compile import (  # noqa: PLC0415 - see above
            check_grammar,
            compile_constraint,
        )

        if isinstance(constraint, Grammar):
            constraint = tgi_constraint(constraint)
        elif constraint.kind == "json_schema":
            check_schema(constraint.value)
        grammar = compile_constraint(constraint)
        check_grammar(grammar, vocabulary)
        return grammar


@final
class GuidanceCompiler:
    """Creates the `Guidance` of requests. There is one object per server. Its methods run in the
    event loop, and grammars are compiled in threads.
    """

    def __init__(
        self, engine: Engine, reader: VocabularyReader, steps: GrammarSteps | None = None
    ) -> None:
        self._engine = engine
        self._reader = reader
        self._steps = steps or GrammarSteps()
        self._grammars = CompiledGrammars()
        self._pending: dict[bytes, asyncio.Task[str]] = {}
        self._threads = asyncio.Semaphore(_NUM_THREADS)
        self._vocabulary_lock = asyncio.Lock()
        self._vocabulary: Vocabulary | None = None

    async def guidance(self, request: TextRequest) -> Guidance | None:
        """Return the guidance of a request, or None if its output is not constrained. The rules in
        `GUIDANCE_RULES` must have been applied.

        Raises `ValidationError` if the constraint is invalid, or if the tokenizer of the model does
        not allow guidance.
        """
        constraint = request.constraint or request.parameters.grammar
        if constraint is None and request.max_reasoning_tokens is None:
            return None
        try:
            vocabulary = await self._loaded_vocabulary()
        except GrammarError as error:
            if request.is_constraint_optional and request.max_reasoning_tokens is None:
                return None
            raise ValidationError(
                f"`{request.guided_field}` is not supported with the tokenizer of this model:"
                f" {error}"
            ) from None
        grammar = "" if constraint is None else await self._grammar(request, constraint, vocabulary)
        if not grammar and request.max_reasoning_tokens is None:
            return None  # The optional constraint cannot be expressed.
        return Guidance(grammar, _reasoning_limits(request))

    async def _grammar(
        self, request: TextRequest, constraint: _Source, vocabulary: Vocabulary
    ) -> str:
        try:
            return await self._compiled(constraint, vocabulary)
        except GrammarError as error:
            if request.loose_constraint is None:
                raise _invalid(request.constraint_field, error) from None
        try:
            return await self._compiled(request.loose_constraint, vocabulary)
        except GrammarError as error:
            if request.is_constraint_optional:
                return ""
            raise _invalid(request.constraint_field, error) from None

    async def _compiled(self, constraint: _Source, vocabulary: Vocabulary) -> str:
        """Return the checked grammar of a constraint. Requests that need the same grammar at the
        same time wait for one compilation. Raises `GrammarError`.
        """
        digest = _digest(constraint)
        grammar = self._grammars.find(digest)
        if grammar is not None:
            return grammar
        task = self._pending.get(digest)
        if task is None:
            task = asyncio.create_task(self._compile(digest, constraint, vocabulary))
            self._pending[digest] = task
            task.add_done_callback(lambda _: self._pending.pop(digest, None))
        # The compilation continues if the client of this request disconnects.
        return await asyncio.shield(task)

    async def _compile(self, digest: bytes, constraint: _Source, vocabulary: Vocabulary) -> str:
        async with self._threads:
            try:
                grammar = await asyncio.to_thread(self._steps.compile, constraint, vocabulary)
            except GrammarError as error:
                self._grammars.add(digest, error)
                raise
        self._grammars.add(digest, grammar)
        return grammar

    async def _loaded_vocabulary(self) -> Vocabulary:
        """Return the vocabulary, and send it to the engine if the engine does not have it. Raises
        `GrammarError` if the tokenizer does not allow guidance.
        """
        async with self._vocabulary_lock:  # at most one request occupies a thread
            if self._vocabulary is None:
                prepared = await asyncio.to_thread(self._reader.get)
                self._engine.set_vocabulary(prepared.data)
                self._vocabulary = prepared.vocabulary
            return self._vocabulary


@final
class CompiledGrammars:
    """The most recently used grammars by the digest of their constraint. For an invalid constraint,
    the error is stored.
    """

    def __init__(
        self, max_grammars: int = _MAX_GRAMMARS, max_characters: int = _MAX_CHARACTERS
    ) -> None:
        self._max_grammars = max_grammars
        self._max_characters = max_characters
        self._num_characters = 0
        self._results: OrderedDict[bytes, str | GrammarError] = OrderedDict()

    def __len__(self) -> int:
        return len(self._results)

    def find(self, digest: bytes) -> str | None:
        """Return the grammar, or None if it is not stored. Raises `GrammarError` for a constraint
        that is known to be invalid.
        """
        result = self._results.get(digest)
        if result is None:
            return None
        self._results.move_to_end(digest)
        if isinstance(result, GrammarError):
            # This is a copy, because a raised exception refers to its stack frames.
            raise GrammarError(str(result))
        return result

    def add(self, digest: bytes, result: str | GrammarError) -> None:
        """Store a grammar or an error. The least recently used entries are removed if the cache is
        full.
        """
        stored = result if isinstance(result, str) else GrammarError(str(result))
        if digest in self._results:
            return
        self._results[digest] = stored
        self._num_characters += len(str(stored))
        while self._results and (
            len(self._results) > self._max_grammars or self._num_characters > self._max_characters
        ):
            _, removed = self._results.popitem(last=False)
            self._num_characters -= len(str(removed))


def _digest(constraint: _Source) -> bytes:
    if isinstance(constraint, Grammar):
        kind, value = f"tgi {constraint.type}", bytes(constraint.value)
    else:
        kind, value = constraint.kind, constraint.value.encode()
    return hashlib.sha256(kind.encode() + b"\0" + value).digest()


def _reasoning_limits(request: TextRequest) -> ReasoningLimits | None:
    style, limit = request.output_style, request.max_reasoning_tokens
    if style.reasoning is None:
        return None
    return ReasoningLimits(
        style.reasoning.start,
        style.reasoning.end,
        style.is_reasoning_open,
        -1 if limit is None else limit,
    )


def _invalid(field: str, error: GrammarError) -> ValidationError:
    if field in _TGI_FIELDS:
        return ValidationError(f"grammar is not valid: {error}")
    return ValidationError(f"`{field}` is not valid: {error}")
