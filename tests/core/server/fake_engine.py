"""An engine in the test process, which echoes the prompt or returns scripted outputs."""

import msgspec

from tgi.backend import API_VERSION, Agreement, CacheGroup, KVCachePlan, Limits
from tgi.engine.stream import SequenceStream
from tgi.scheduler.records import Request, SequenceOutput
from tgi.types import FinishReason

LOGPROB = -0.5


def agreement(**changes):
    fields = {
        "api": API_VERSION,
        "features": ("logprobs", "prompt_logprobs"),
        "limits": Limits(max_total_tokens=64, max_sequences=8, max_step_tokens=64),
        "kv_cache": KVCachePlan("paged", 16, (CacheGroup("full", 64),)),
        "vocab_size": 512,
        "sampling": ("temperature", "top_k", "top_p", "top_n_tokens"),
        "sampling_caps": {"top_k": 16},
        "facts": {"dtype": "float32"},
    }
    return Agreement(**fields | changes)


class FakeEngine:
    """An engine client without an engine. If `outputs` is None, each sequence repeats its prompt
    for `max_new_tokens` tokens. If it is a list, each sequence returns these outputs. If the list
    is empty, the test puts outputs into `streams`.
    """

    def __init__(self, outputs=None, **changes):
        self.agreement = agreement(**changes)
        self.is_healthy = True
        self.has_prompt_tops = True
        self.outputs = outputs
        self.requests: list[Request] = []
        self.streams: list[SequenceStream] = []
        self.aborted: list[int] = []
        self.listeners = []
        self.vocabularies = []

    def submit(self, request, outputs):
        stream = SequenceStream(len(self.streams), request, outputs, self.aborted.append)
        self.requests.append(request)
        self.streams.append(stream)
        for output in self._echo(stream) if self.outputs is None else self.outputs:
            stream.put(msgspec.structs.replace(output, sequence_id=stream.sequence_id))
        return stream

    def set_vocabulary(self, data):
        self.vocabularies.append(data)

    def add_stats_listener(self, listener):
        self.listeners.append(listener)

    def _echo(self, stream):
        request = stream.request
        prompt, top_n = request.prompt_token_ids, request.sampling.top_n_tokens
        if request.sampling.prompt_logprobs:
            tops = [((token, LOGPROB), (token + 1, LOGPROB - 1))[:top_n] for token in prompt[1:]]
            yield SequenceOutput(
                stream.sequence_id,
                prompt_logprobs=[None, *[LOGPROB] * (len(prompt) - 1)],
                prompt_top=[(), *tops] if self.has_prompt_tops else [],
            )
        for index in range(request.max_new_tokens):
            token = prompt[index % len(prompt)]
            top = tuple((token + rank, LOGPROB * (rank + 1)) for rank in range(top_n))
            is_last = index == request.max_new_tokens - 1
            yield SequenceOutput(
                stream.sequence_id,
                [token],
                FinishReason.LENGTH if is_last else None,
                queue_ns=1000,
                logprobs=[LOGPROB],
                top=[top],
            )
