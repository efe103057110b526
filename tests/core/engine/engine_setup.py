"""A start message for the null backend."""

import msgspec

from tgi.architectures import GenericSpec
from tgi.backend import EngineConfig, SamplingParams, Wish
from tgi.engine.messages import Start
from tgi.engine.stream import SequenceRequest
from tgi.scheduler.records import SchedulerConfig
from tgi.testing.null_backend import NullScript

SPEC = GenericSpec(
    model_type="x", vocab_size=100, hidden_size=8, num_layers=1, num_kv_heads=1, head_dim=8, max_positions=512, config={}
)


def start_message(tmp_path, **script):
    path = tmp_path / "script.json"
    path.write_bytes(msgspec.json.encode(NullScript(**script)))
    config = EngineConfig("null", "", SPEC, options={"script": str(path)})
    return Start(config, Wish(), SchedulerConfig())


def request(prompt, max_new_tokens=4, **kwargs):
    sampling = kwargs.pop("sampling", SamplingParams(logprobs="processed"))
    return SequenceRequest("r", list(prompt), sampling, seed=1, max_new_tokens=max_new_tokens, **kwargs)
