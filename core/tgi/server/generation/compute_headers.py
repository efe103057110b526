"""What TGI tells about a generation in the head of its answer."""

from __future__ import annotations

from collections.abc import Sequence

from tgi.server.generation.admission import GenerationInput
from tgi.server.generation.pipeline import CompletedGeneration, CompletedPrompt
from tgi.server.http.json_format import format_plain
from tgi.server.state import ServerConfig

__all__ = ["response_headers", "stream_headers"]


def response_headers(config: ServerConfig, prompts: Sequence[CompletedPrompt]) -> dict[str, str]:
    """The head of an answer that is not a stream.

    Times are whole milliseconds, but `x-compute-time` in seconds. Of a prompt's sequences the
    slowest one counts; figures of several prompts are added up, as TGI does.
    """
    times = [_slowest(prompt).times for prompt in prompts]
    results = [sequence.result for prompt in prompts for sequence in prompt.sequences]
    return {
        "x-compute-type": config.compute_type,
        "x-compute-time": format_plain(sum(t.total for t in times)),
        "x-compute-characters": str(sum(len(prompt.given.prompt) for prompt in prompts)),
        "x-total-time": _milliseconds(sum(t.total for t in times)),
        "x-validation-time": _milliseconds(sum(t.validation for t in times)),
        "x-queue-time": _milliseconds(sum(t.queue for t in times)),
        "x-inference-time": _milliseconds(sum(t.inference for t in times)),
        "x-time-per-token": _milliseconds(sum(t.per_token for t in times)),
        "x-prompt-tokens": str(sum(prompt.sequences[0].result.input_length for prompt in prompts)),
        "x-generated-tokens": str(sum(result.num_generated_tokens for result in results)),
    }


def stream_headers(config: ServerConfig, inputs: Sequence[GenerationInput]) -> dict[str, str]:
    """The same for a stream, which knows less when it begins."""
    num_characters = sum(len(given.prompt) for given in inputs)
    return {"x-compute-type": config.compute_type, "x-compute-characters": str(num_characters)}


def _slowest(prompt: CompletedPrompt) -> CompletedGeneration:
    return max(prompt.sequences, key=lambda sequence: sequence.times.total)


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
