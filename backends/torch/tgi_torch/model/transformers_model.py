"""The fallback for models that `ModelSpec` cannot describe. It runs the code of `transformers`.

The fallback keeps one cache object of `transformers` per sequence and computes the rows of a step
one after the other. The fallback is therefore slow. Its results are correct for every model whose
`generate` is correct, with any kind of attention or recurrent layer. Scheduling, sampling and
memory calculation are the same as for other models. Blocks of the cache are only used to limit the
memory. The index of a sequence in the cache group `state` identifies its cache object.
"""

from __future__ import annotations

import inspect
from typing import Any, final

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from tgi.architectures import GenericSpec
from tgi.backend import Limits, ModelError
from tgi.worker.cache_format import CacheCoding
from tgi_torch.attention.paged import AttentionMetadata

__all__ = [
    "CACHE_ARGUMENTS",
    "RUNNING_ERRORS",
    "TransformersModel",
    "find_body",
    "first_line",
    "no_cache",
    "refusal",
]

CACHE_ARGUMENTS = ("past_key_values", "cache_params")
_CHECK_TOKENS = 6
# The limit is a fraction of the logits' standard deviation. Rounding errors are far below this
# limit. The error after the loss of a state is far above this limit.
_MAX_DEVIATION = 0.05
# The modelling code of a checkpoint can raise any of these errors.
RUNNING_ERRORS = (
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


@final
class TransformersModel:
    """A `tgi_torch.model.protocols.LoadedModel`, and after `with_cache` also a `Model`.

    `is_chunked` is true if a prompt may be computed in chunks. The constructor runs the model to
    determine this value.
    """

    def __init__(self, spec: GenericSpec, model: PreTrainedModel) -> None:
        self.spec = spec
        self._model = model
        self._num_blocks = self._block_size = 0
        self._caches: dict[int, object] = {}
        self._cache_argument = "past_key_values"
        self._has_positions = False
        with torch.inference_mode():
            self._body, self.is_chunked = self._split_and_check()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and cache."""
        return self._model.dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self._model.device

    @property
    def num_sequences(self) -> int:
        """Number of sequences that have a cache object."""
        return len(self._caches)

    @property
    def num_blocks(self) -> int:
        """Number of blocks. Blocks are only used to limit the memory."""
        return self._num_blocks

    @property
    def block_size(self) -> int:
        """Number of tokens in a block."""
        return self._block_size

    def with_cache(
        self,
        num_blocks: int,
        block_size: int,
        limits: Limits,
        *,
        num_states: int = 0,
        coding: CacheCoding | None = None,
    ) -> TransformersModel:
        """Set the number and size of the blocks.

        No memory is reserved. The cache object of a sequence grows with the sequence, up to the
        size of the sequence's blocks.
        """
        assert coding is None, "the fallback stores no codes"
        del limits, num_states
        self._num_blocks, self._block_size = num_blocks, block_size
        return self

    def close(self) -> None:
        """Release the cache objects of all sequences."""
        self._caches.clear()

    def copy_blocks(self, sources: Tensor, targets: Tensor) -> None:
        """Do nothing, because blocks contain no data. Features that copy blocks are not
        negotiated.
        """

    def copy_states(self, sources: Tensor, targets: Tensor) -> None:
        """Do nothing, because snapshots are not negotiated."""

    def release_state(self, state: int) -> None:
        """Release the cache object of the sequence that used `state`."""
        self._caches.pop(state, None)

    def forward(
        self, token_ids: Tensor, metadata: AttentionMetadata, wanted: Tensor | None = None
    ) -> Tensor:
        """Compute the hidden vectors after the final norm for int64 [T], row by row.

        Returns [T, hidden], or only the rows with the indices `wanted`.
        """
        assert metadata.states is not None
        rows = zip(
            metadata.states.tolist(),
            torch.split(token_ids, list(metadata.query_lens)),
            metadata.query_lens,
            metadata.context_lens,
            strict=True,
        )
        parts = []
        for state, tokens, query_len, context_len in rows:
            start = context_len - query_len
            hidden, self._caches[state] = self._hidden(
                tokens, self._caches[state] if start else None, start
            )
            parts.append(hidden)
        vectors = torch.cat(parts)
        return vectors if wanted is None else vectors.index_select(0, wanted)

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute the logits float32 [N, vocab] of hidden vectors [N, hidden].

        The logits include the model's own scaling or capping.
        """
        logits: Tensor = self._model(inputs_embeds=hidden.unsqueeze(0), use_cache=False).logits
        return logits[0].float()

    def _hidden(self, tokens: Tensor, cache: object, start: int) -> tuple[Tensor, object]:
        """Compute the hidden vectors of the tokens after the first `start` tokens of a sequence.

        Returns the vectors and the cache. At the start of a sequence, `cache` is None, and the
        modelling code creates the cache, whose class depends on the family.
        """
        arguments: dict[str, Any] = {} if cache is None else {self._cache_argument: cache}
        if self._has_positions:
            last = start + len(tokens)
            arguments["position_ids"] = torch.arange(start, last, device=tokens.device)[None]
        output = self._body(input_ids=tokens.unsqueeze(0), use_cache=True, **arguments)
        hidden: Tensor = output[0]
        return hidden[0], output.get(self._cache_argument)

    def _split_and_check(self) -> tuple[torch.nn.Module, bool]:
        """Separate the body from the model, and compare the two parts with the whole model."""
        model, tokens = (
            self._model,
            torch.arange(_CHECK_TOKENS, device=self._model.device) % self.spec.vocab_size,
        )
        name, body = find_body(self.spec, model)
        outputs: list[ModelOutput] = []
        hook = body.register_forward_hook(lambda _, __, output: outputs.append(output))
        try:
            expected = model(input_ids=tokens.unsqueeze(0), use_cache=False).logits[0].float()
        except RUNNING_ERRORS as error:
            raise refusal(self.spec, f"a test run failed: {first_line(error)}") from error
        finally:
            hook.remove()
        if not outputs or not isinstance(outputs[0], ModelOutput):
            raise refusal(
                self.spec,
                f"the class {type(model).__name__} does not separate the layers from the head",
            )
        model.set_submodule(name, _Replay(type(outputs[0]), body))
        self._body = body
        parameters = inspect.signature(body.forward).parameters
        self._has_positions = "position_ids" in parameters
        if "cache_params" in parameters:
            self._cache_argument = "cache_params"
        reason = self._problem_with_chunks(tokens, expected, 1)
        if reason:
            raise refusal(self.spec, reason)
        return body, not self._problem_with_chunks(tokens, expected, _CHECK_TOKENS // 2)

    def _problem_with_chunks(self, tokens: Tensor, expected: Tensor, size: int) -> str:
        """Compute `tokens` in chunks, and compare the result with the logits of the whole model.

        `size` is the number of tokens in a chunk. The difference is divided by the standard
        deviation of the logits. Returns the reason if the results are different, or if the model
        cannot run with chunks. Otherwise the result is empty.
        """
        cache, parts = None, []
        try:
            for start in range(0, len(tokens), size):
                hidden, cache = self._hidden(tokens[start : start + size], cache, start)
                if cache is None:
                    return no_cache(self._body)
                parts.append(hidden)
            logits = self.logits(torch.cat(parts))
        except RUNNING_ERRORS as error:
            return f"a test run in several steps failed: {first_line(error)}"
        if float((logits - expected).abs().max() / expected.std()) <= _MAX_DEVIATION:
            return ""
        return (
            f"the logits of the class {type(self._model).__name__} are different if the tokens are"
            " computed in several steps"
        )


@final
class _Replay(torch.nn.Module):
    """A replacement of the body that returns its input vectors.

    With this replacement the model computes only its head. All other attributes are those of the
    body, because a head may use them.
    """

    def __init__(self, output_type: type[ModelOutput], body: torch.nn.Module) -> None:
        super().__init__()
        self._output_type = output_type
        self._bodies = (body,)  # in a tuple, the body is not a submodule

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of the body
        return getattr(self.__dict__["_bodies"][0], name)

    def forward(self, *_: object, inputs_embeds: Tensor, **__: object) -> ModelOutput:
        """Return `inputs_embeds` in the output type of the body."""
        return self._output_type(last_hidden_state=inputs_embeds)


def find_body(spec: GenericSpec, model: PreTrainedModel) -> tuple[str, torch.nn.Module]:
    """Return the module with the layers, and its name in the model. Raises `ModelError` if the
    modelling code does not separate the layers from the head.
    """
    decoder = model.get_decoder()  # type: ignore[no-untyped-call]
    modules = (
        getattr(model, model.base_model_prefix, None),
        decoder,
        getattr(model, "model", None),
    )
    for body in modules:
        if isinstance(body, torch.nn.Module) and body is not model:
            name = next((name for name, module in model.named_modules() if module is body), "")
            if name:
                return name, body
    raise refusal(
        spec,
        f"the class {type(model).__name__} does not separate the layers from the head",
    )


def refusal(spec: GenericSpec, reason: str) -> ModelError:
    return ModelError(
        f"transformers {transformers.__version__} cannot run the architecture `{spec.model_type}`:"
        f" {reason.rstrip('.')}.",
        "Choose another model, or another version of transformers.",
    )


def no_cache(body: torch.nn.Module) -> str:
    return f"the class {type(body).__name__} keeps no cache of a sequence"


def first_line(error: Exception) -> str:
    text = str(error).strip()
    return " ".join(text.split())[:300] if text else type(error).__name__
