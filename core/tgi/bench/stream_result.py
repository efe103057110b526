"""Parse the stream of one generation into tokens, times and errors, for all routes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, final

from tgi.bench.http_exchange import Exchange, read_response

__all__ = ["StreamResult", "read_stream"]

_DONE = b"[DONE]"
_MAX_ERROR_CHARS = 300
# Fields of a chat delta that contain text. Servers use different names.
_TEXT_FIELDS = ("content", "reasoning_content", "reasoning")


@final
@dataclass
class StreamResult:
    """The result of one request. Times are in seconds since the request was sent (closed-loop load)
    or was due (open-loop load).
    """

    event_times: list[float] = field(default_factory=list)  # one entry per event with text
    end_time: float = 0.0
    num_tokens: int = 0
    num_prompt_tokens: int | None = None  # the number that the server reported
    finish_reason: str = ""
    is_counted_by_server: bool = False  # if False, each event counts as one token
    request_id: str = ""
    error: str = ""

    @property
    def ttft(self) -> float:
        """The time to first token."""
        return self.event_times[0]

    @property
    def gaps(self) -> list[float]:
        """The times between consecutive events."""
        return [late - early for early, late in pairwise(self.event_times)]

    @property
    def time_per_output_token(self) -> float | None:
        """The mean time per token after the first token. The result is None if there is only one
        token.
        """
        if self.num_tokens <= 1:
            return None
        return (self.event_times[-1] - self.event_times[0]) / (self.num_tokens - 1)


def read_stream(received: Exchange, began: float, num_tokens: int) -> StreamResult:
    """Parse the stream of a request for `num_tokens` tokens. Fewer tokens are not an error if the
    stream ended with an end-of-sequence token.
    """
    result = StreamResult()
    try:
        response = read_response(received)
        result.request_id = response.headers.get("x-request-id", "")
        if response.status != 200:
            text = response.body.decode(errors="replace").strip()
            result.error = f"status {response.status}: {text}"[:_MAX_ERROR_CHARS]
            return result
        for moment, data in response.events():
            if data != _DONE:
                _take_event(json.loads(data), moment - began, result)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        # The last three errors are raised by events with an unknown schema.
        result.error = f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARS]
        return result
    result.end_time = received.reads[-1][0] - began
    if not result.is_counted_by_server:
        result.num_tokens = len(result.event_times)
    result.error = result.error or _fault(result, num_tokens)
    return result


def _fault(result: StreamResult, num_tokens: int) -> str:
    if not result.event_times or not result.num_tokens:
        return "the stream contains no token"
    if not result.finish_reason:
        return f"the stream ends after {result.num_tokens} tokens without a finish reason"
    if (
        result.finish_reason == "length"
        and result.is_counted_by_server
        and result.num_tokens != num_tokens
    ):
        return f"{result.num_tokens} tokens instead of {num_tokens}"
    return ""


def _take_event(event: Mapping[str, Any], moment: float, result: StreamResult) -> None:
    result.request_id = result.request_id or str(event.get("id", ""))
    if event.get("error"):
        result.error = json.dumps(event["error"])[:_MAX_ERROR_CHARS]
    elif "token" in event:
        result.event_times.append(moment)
        if details := event.get("details"):
            result.finish_reason = details["finish_reason"]
            result.num_tokens = details["generated_tokens"]
            result.num_prompt_tokens = details.get("input_length")
            result.is_counted_by_server = True
    else:
        _take_openai_event(event, moment, result)


def _take_openai_event(event: Mapping[str, Any], moment: float, result: StreamResult) -> None:
    if usage := event.get("usage"):
        result.num_tokens = usage["completion_tokens"]
        result.num_prompt_tokens = usage.get("prompt_tokens")
        result.is_counted_by_server = True
    for choice in event.get("choices") or ():
        result.finish_reason = choice.get("finish_reason") or result.finish_reason
        delta = choice.get("delta")
        if delta is None:
            # A completion event without text is a token with an incomplete character, unless the
            # event only contains the finish reason.
            has_token = bool(choice.get("text")) or not choice.get("finish_reason")
        else:
            has_token = any(delta.get(name) for name in _TEXT_FIELDS)
        if has_token:
            result.event_times.append(moment)
