"""The seam between the core and a backend.

A plugin imports this, `tgi.architectures` and `tgi.testing`, and nothing else of the core.
"""

import pluggy

from tgi.backend.agreement import (
    API_VERSION,
    FEATURES,
    SAMPLING_FIELDS,
    Agreement,
    BackendInfo,
    BackendOption,
    CacheGroup,
    Control,
    ControlResult,
    DeviceInfo,
    EngineConfig,
    Health,
    Implementation,
    KVCachePlan,
    Limits,
    MemoryItem,
    ProbeResult,
    Support,
    Wish,
)
from tgi.backend.codec import decode, encode
from tgi.backend.errors import BackendError, ModelError, StepError, WrongStateError
from tgi.backend.protocols import Backend, Explainer, Host, Worker
from tgi.backend.records import (
    TOKEN_ON_DEVICE,
    Float32Array,
    GrammarMasks,
    Int32Array,
    LogprobsMode,
    MediaInput,
    ModelRunnerOutput,
    NewSequence,
    PromptScores,
    Record,
    RowError,
    Rows,
    SamplingParams,
    SchedulerOutput,
    StepTimes,
    UInt8Array,
    empty_float32,
    empty_int32,
)
from tgi.backend.worker_state import WorkerState

hookimpl = pluggy.HookimplMarker("tgi")
"""Marks a plugin's implementation of a hook of `tgi.plugins.hookspecs`."""

__all__ = [
    "API_VERSION",
    "FEATURES",
    "SAMPLING_FIELDS",
    "TOKEN_ON_DEVICE",
    "Agreement",
    "Backend",
    "BackendError",
    "BackendInfo",
    "BackendOption",
    "CacheGroup",
    "Control",
    "ControlResult",
    "DeviceInfo",
    "EngineConfig",
    "Explainer",
    "Float32Array",
    "GrammarMasks",
    "Health",
    "Host",
    "Implementation",
    "Int32Array",
    "KVCachePlan",
    "Limits",
    "LogprobsMode",
    "MediaInput",
    "MemoryItem",
    "ModelError",
    "ModelRunnerOutput",
    "NewSequence",
    "ProbeResult",
    "PromptScores",
    "Record",
    "RowError",
    "Rows",
    "SamplingParams",
    "SchedulerOutput",
    "StepError",
    "StepTimes",
    "Support",
    "UInt8Array",
    "Wish",
    "Worker",
    "WorkerState",
    "WrongStateError",
    "decode",
    "empty_float32",
    "empty_int32",
    "encode",
    "hookimpl",
]
