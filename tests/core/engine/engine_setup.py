"""Requests and start messages for engine tests with the null backend."""

import msgspec

from tgi.architectures import GenericSpec
from tgi.backend import FEATURES, EngineConfig, RequestedLimits, SamplingParams
from tgi.engine.messages import Start
from tgi.engine.stream import OutputQueue
from tgi.scheduler.records import Request, SchedulerConfig
from tgi.testing.doubles.null_script import NullScript

SPEC = GenericSpec(
    model_type="x",
    vocab_size=100,
    hidden_size=8,
    num_layers=1,
    num_kv_heads=1,
    head_dim=8,
    max_positions=512,
    config={},
)

CONTROLS = ("adapter_load", "adapter_unload", "sleep", "wake", "kv_export", "kv_import")


def start_message(tmp_path, **script):
    path = tmp_path / "script.json"
    path.write_bytes(msgspec.json.encode(NullScript(**script)))
    config = EngineConfig("null", "", SPEC, options={"script": str(path)})
    return Start(config, RequestedLimits(features=tuple(sorted(FEATURES))), SchedulerConfig())


def request(prompt, max_new_tokens=4, **kwargs):
    sampling = kwargs.pop("sampling", SamplingParams(logprobs="processed"))
    return Request("r", list(prompt), sampling, seed=1, max_new_tokens=max_new_tokens, **kwargs)


class SubmittedSequence:
    """A sequence that is submitted to an engine. Iteration yields its outputs one by one."""

    def __init__(self, client, request):
        self._outputs = OutputQueue()
        self._ready = []
        self._stream = client.submit(request, self._outputs)

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self._ready:
            if self._stream.is_finished:
                self._outputs.close()
            self._ready = await self._outputs.get()
        if not self._ready:
            raise StopAsyncIteration
        return self._ready.pop(0)

    def abort(self):
        self._stream.abort()
