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


@final
class OutputQueue:
    """The queue of engine outputs for the sequences of one request, in order of arrival. The queue
    has one consumer.
    """

    def __init__(self) -> None:
        self._outputs: list[SequenceOutput] = []
        self._waiter: asyncio.Future[None] | None = None
        self._is_closed = False
        self.failure: RequestError | None = None
        """The reason for which the queue was closed."""

    def put(self, output: SequenceOutput) -> None:
        """Add an output."""
        self._outputs.append(output)
        self._wake()

    def close(self, failure: RequestError | None = None) -> None:
        """Mark the queue as closed. No further output will be added. `failure` is the error of the
        request.
        """
        self._is_closed = True
        self.failure = failure
        self._wake()

    async def get(self) -> list[SequenceOutput]:
        """Wait for at least one output, and return all outputs that were added since the last call.
        Returns an empty list if the queue is closed and has no outputs left.
        """
        while not self._outputs and not self._is_closed:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        outputs, self._outputs = self._outputs, []
        return outputs

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@final
@dataclass(eq=False)
class SequenceStream:
    """One sequence that was submitted to the engine. Its outputs are added to `outputs`. The last
    output has a finish reason or an error.

    The stream records the output tokens, so that the sequence can be resumed in a new engine
    process.
    """

    sequence_id: int
    request: Request
    outputs: OutputQueue
    on_abort: Callable[[int], None]
    output_token_ids: list[int] = field(default_factory=list)
    num_prompt_logprobs: int = 0
    is_finished: bool = False  # no further output will be added
    # Number of prompt logprobs that a resumed engine will send a second time.
    _num_repeated: int = 0

    def to_message(self) -> AddSequence:
        """Return the message that starts this sequence, or continues it after its output tokens."""
        return AddSequence(self.sequence_id, self.request, self.output_token_ids)

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
        self.output_token_ids += output.token_ids
        if output.prompt_logprobs:
            output = self._without_repeated(output)
            self.num_prompt_logprobs += len(output.prompt_logprobs)
        self.is_finished = output.finish_reason is not None or output.error is not None
        self.outputs.put(output)

    def abort(self) -> None:
        """End the sequence. Every cancellation calls this method. It is allowed in every state and
        may be called several times.
        """
        if not self.is_finished:
            self.is_finished = True
            self.on_abort(self.sequence_id)

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
            msgspec.structs.replace(output, prompt_logprobs=output.prompt_logprobs[repeated:])
            if repeated
            else output
        )
