"""The output streams of the sequences of one request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import msgspec

from tgi.engine.messages import AddSequence
from tgi.errors import RequestError
from tgi.scheduler import Request, SequenceOutput

__all__ = ["OutputQueue", "SequenceStream"]


_MAX_UNREAD_BYTES = 1 << 20  # estimated size of unread outputs at which sequences are paused
_MAX_READ = 256  # number of outputs that are read at once, so that their conversion is short

# The estimated size of an output in bytes, and of each token, top token and prompt score in it.
_OUTPUT_BYTES, _TOKEN_BYTES, _TOP_TOKEN_BYTES, _SCORE_BYTES = 330, 110, 120, 32


@final
class OutputQueue:
    """The queue of engine outputs for the sequences of one request, in order of arrival. The queue
    has one consumer.

    If the consumer is slow and the queue becomes full, the sequences are paused. They continue when
    the consumer has read all outputs.
    """

    def __init__(self) -> None:
        self._outputs: list[SequenceOutput] = []
        self._num_bytes = 0
        self._paused: list[SequenceStream] = []
        self._waiter: asyncio.Future[None] | None = None
        self._is_closed = False
        self.failure: RequestError | None = None
        """The reason for which the queue was closed."""

    @property
    def num_bytes(self) -> int:
        """The estimated size of the outputs in the queue."""
        return self._num_bytes

    def put(self, output: SequenceOutput, stream: SequenceStream) -> None:
        """Add an output of a sequence. If the queue is full, the sequence is paused."""
        self._outputs.append(output)
        self._num_bytes += _size_of(output)
        if self._num_bytes > _MAX_UNREAD_BYTES and stream.pause():
            self._paused.append(stream)
        self._wake()

    def close(self, failure: RequestError | None = None) -> None:
        """Mark the queue as closed. No further output will be added. `failure` is the error of the
        request.
        """
        self._is_closed = True
        self.failure = failure
        self._wake()

    async def get(self) -> list[SequenceOutput]:
        """Wait for at least one output, and return the outputs that were added since the last call,
        but at most 256. Returns an empty list if the queue is closed and has no outputs left.
        """
        if self._paused and not self._outputs:
            self._resume()
        while not self._outputs and not self._is_closed:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if len(self._outputs) > _MAX_READ:
            outputs, self._outputs = self._outputs[:_MAX_READ], self._outputs[_MAX_READ:]
            self._num_bytes -= sum(map(_size_of, outputs))
            return outputs
        outputs, self._outputs, self._num_bytes = self._outputs, [], 0
        return outputs

    def _resume(self) -> None:
        paused, self._paused = self._paused, []
        for stream in paused:
            stream.resume()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@final
@dataclass(eq=False)
class SequenceStream:
    """One sequence that was submitted to the engine. Its outputs are added to `outputs`. The last
    output has a finish reason or an error.

    The stream records the output tokens, so that the sequence can be resumed in a new engine
    process or after a pause. The functions `on_pause` and `on_resume` pause and resume the sequence
    in the engine. `on_pause` returns False if the sequence cannot be paused now.
    """

    sequence_id: int  # in the outputs
    request: Request
    outputs: OutputQueue
    on_abort: Callable[[int], None]
    on_pause: Callable[[SequenceStream], bool] = lambda _: False
    on_resume: Callable[[SequenceStream], None] = lambda _: None
    output_token_ids: list[int] = field(default_factory=list)
    num_prompt_logprobs: int = 0
    is_finished: bool = False  # no further output will be added
    is_paused: bool = False  # the engine does not run the sequence, because nothing is read
    # The id in the engine. It changes when the sequence continues after a pause, because outputs
    # from before the pause may still arrive.
    engine_id: int = 0
    # Number of prompt logprobs that a resumed engine will send a second time.
    _num_repeated: int = 0

    def __post_init__(self) -> None:
        self.engine_id = self.sequence_id

    def to_message(self) -> AddSequence:
        """Return the message that starts this sequence, or continues it after its output tokens."""
        return AddSequence(self.engine_id, self.request, self.output_token_ids)

    def resume_message(self) -> AddSequence:
        """Return the message that resumes this sequence in a new engine process. If the sequence
        has no output token yet, the new process computes all prompt logprobs again.
        """
        self._num_repeated = 0 if self.output_token_ids else self.num_prompt_logprobs
        return self.to_message()

    def put(self, output: SequenceOutput) -> None:
        """Add an output. Outputs after the end of the sequence are dropped."""
        if self.is_finished:
            return
        if output.sequence_id != self.sequence_id:
            output = msgspec.structs.replace(output, sequence_id=self.sequence_id)
        self.output_token_ids += output.token_ids
        if output.prompt_logprobs:
            output = self._without_repeated(output)
            self.num_prompt_logprobs += len(output.prompt_logprobs)
        self.is_finished = output.finish_reason is not None or output.error is not None
        self.outputs.put(output, self)

    def abort(self) -> None:
        """End the sequence. Every cancellation calls this method. It is allowed in every state and
        may be called several times.
        """
        if not self.is_finished:
            self.is_finished = True
            self.on_abort(self.engine_id)

    def pause(self) -> bool:
        """Pause the sequence in the engine. Returns whether the sequence is paused now and was not
        paused before.
        """
        if self.is_paused or self.is_finished:
            return False
        self.is_paused = self.on_pause(self)
        return self.is_paused

    def resume(self) -> None:
        """Continue the sequence if it is paused."""
        if self.is_paused and not self.is_finished:
            self.is_paused = False
            self.on_resume(self)

    def cut_off(self, failure: RequestError | None = None) -> None:
        """Abort the sequence and close its queue, because the engine is no longer available.
        `failure` is the error of the request.
        """
        self.abort()
        self.outputs.close(failure)

    def _without_repeated(self, output: SequenceOutput) -> SequenceOutput:
        repeated = min(self._num_repeated, len(output.prompt_logprobs))
        self._num_repeated -= repeated
        return (
            msgspec.structs.replace(
                output,
                prompt_logprobs=output.prompt_logprobs[repeated:],
                prompt_top=output.prompt_top[repeated:],
            )
            if repeated
            else output
        )


def _size_of(output: SequenceOutput) -> int:
    """Return the estimated size of an output in memory, in bytes."""
    num_tokens, top = len(output.token_ids), output.top
    size = _OUTPUT_BYTES + _TOKEN_BYTES * num_tokens
    if top:
        size += _TOP_TOKEN_BYTES * num_tokens * len(top[0])
    if output.prompt_logprobs:
        size += _SCORE_BYTES * len(output.prompt_logprobs)
    if output.prompt_top:
        size += _TOP_TOKEN_BYTES * sum(map(len, output.prompt_top))
    return size
