"""What a backend says about itself, what the core wishes, and what both agree on before the first
step.
"""

from __future__ import annotations

from typing import Literal

from tgi.architectures import GenericSpec, ModelSpec
from tgi.backend.model_files import SAFETENSORS, ModelFilesWanted
from tgi.backend.records import Record

__all__ = [
    "API_VERSION",
    "FEATURES",
    "SAMPLING_FIELDS",
    "Agreement",
    "BackendInfo",
    "BackendOption",
    "CacheGroup",
    "DeviceInfo",
    "EngineConfig",
    "Health",
    "Implementation",
    "KVCachePlan",
    "Limits",
    "MemoryItem",
    "ProbeResult",
    "RequestedLimits",
    "Support",
]

API_VERSION = (2, 0)
"""Version of the backend interface. A plugin loads if its major version equals ours and its minor
version is not above ours.
"""

FEATURES = frozenset(
    {
        "prefix_cache",
        "mask",
        "late_mask",
        "device_token",
        "logprobs",
        "prompt_logprobs",
        "lora",
        "images",
        "drafts",
        "multi_token",
        "deterministic",
        "sleep",
        "profile",
        "embeddings",
        "kv_export",
    }
)
"""Names a backend may agree on, as far as they are in `RequestedLimits.features`. Behaviour outside
the agreed features never appears on either side.
"""

SAMPLING_FIELDS = frozenset(
    {
        "watermark",
        "logit_bias",
        "repetition_penalty",
        "relative_frequency_penalty",
        "frequency_penalty",
        "presence_penalty",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "min_p",
        "top_n_tokens",
    }
)


class BackendOption(Record, frozen=True):
    """An option of the plugin's own; the user writes `--<backend>-<name>`."""

    name: str
    help: str
    default: str = ""
    choices: tuple[str, ...] = ()


class BackendInfo(Record, frozen=True):
    """Who the backend is. Answering must import no framework."""

    name: str
    api: tuple[int, int]
    package: str  # distribution name
    version: str
    # `auto` takes the usable backend with the highest; below 0 = only where no other is usable
    priority: int = 0
    selectable: bool = True  # False = never taken by `auto`
    options: tuple[BackendOption, ...] = ()
    # known before a model is fetched; a model in another format is rejected without a question
    model_files: ModelFilesWanted = ModelFilesWanted()


class DeviceInfo(Record, frozen=True):
    """One device as the operator knows it."""

    id: str
    label: str
    memory_bytes: int = 0


class ProbeResult(Record, frozen=True):
    """Can this backend run on this machine, and if not, why and what to do."""

    usable: bool
    reason: str = ""
    devices: tuple[DeviceInfo, ...] = ()


class MemoryItem(Record, frozen=True):
    """One line of the memory arithmetic shown at start."""

    label: str
    num_bytes: int
    detail: str = ""


class Implementation(Record, frozen=True):
    """How one operation is computed, and why not otherwise: for `tgi doctor`."""

    operation: str  # as an operator knows it: "attention", "weights", "sampling"
    chosen: str
    others: tuple[tuple[str, str], ...] = ()  # (implementation, why it was not chosen), best first


class Support(Record, frozen=True):
    """Answer to "can you run this model so?"."""

    status: Literal["native", "slow", "no"]
    reasons: tuple[str, ...] = ()
    memory: tuple[MemoryItem, ...] = ()


class EngineConfig(Record, frozen=True):
    """What the engine process needs to build a worker. `dtype` and the memory wishes are None where
    the user said nothing.
    """

    backend: str
    model_path: str  # a folder, or the file of a single-file format
    spec: ModelSpec | GenericSpec
    dtype: str | None = None  # float32, float16 or bfloat16
    quantize: str | None = None
    kv_cache_dtype: str | None = None
    num_shard: int = 1
    memory_fraction: float = 1.0
    trust_remote_code: bool = False
    options: dict[str, str] = {}  # the plugin's own
    cache_dir: str = ""
    model_format: str = SAFETENSORS.name  # one of `ModelFilesWanted.formats`


class RequestedLimits(Record, frozen=True):
    """Limits as the user gave them; None = the backend decides. A given value is kept or the start
    fails with a reason.
    """

    max_input_tokens: int | None = None
    max_total_tokens: int | None = None
    max_batch_prefill_tokens: int | None = None
    max_batch_total_tokens: int | None = None
    max_batch_size: int | None = None
    max_concurrent_requests: int = 128
    model_max_total_tokens: int = 0  # the model's own context limit; 0 = unknown
    features: tuple[str, ...] = ()


class Limits(Record, frozen=True):
    """Sizes that no step exceeds, and the rules of forming one."""

    max_total_tokens: int  # context of one sequence
    max_sequences: int
    max_step_tokens: int
    mixed: bool = True  # prefill and decode rows in one step
    chunked: bool = True  # a prompt may be split over steps
    chunk_multiple: int = 1  # of every prefill chunk but the last
    max_prefills: int = 0  # prefill rows in one step; 0 = no limit
    decode_rows_first: bool = False
    depth: int = 1  # steps in flight
    tokens_per_step: int = 1  # greatest `Rows.max_tokens`; > 1 only with `multi_token` or `drafts`
    max_adapters: int = 0  # loaded at once; > 0 only with `lora`
    max_adapter_rank: int = 0


class CacheGroup(Record, frozen=True):
    """Layers that share one block table. Block 0 … `num_blocks` - 1 are the core's to hand out."""

    kind: Literal["full", "window", "state", "cross"]
    num_blocks: int
    window: int = 0


class KVCachePlan(Record, frozen=True):
    """How the cache is divided: in blocks that the core hands out, or in slots of one sequence
    each.
    """

    mode: Literal["paged", "slots"]
    block_size: int = 0
    groups: tuple[CacheGroup, ...] = ()
    num_sequence_slots: int = 0
    sequence_slot_tokens: int = 0
    # a block takes memory with its first use; so the core uses blocks again rather than ever more
    # of them
    on_demand: bool = False

    @property
    def max_batch_total_tokens(self) -> int:
        """Tokens the cache holds over all sequences; 0 where it holds states alone, which take any
        number.
        """
        if self.mode == "slots":
            return self.num_sequence_slots * self.sequence_slot_tokens
        return (
            min((g.num_blocks for g in self.groups if g.kind in ("full", "window")), default=0)
            * self.block_size
        )


class Agreement(Record, frozen=True):
    """What holds from now on. The core steers by this and never by a hardware name."""

    api: tuple[int, int]
    features: tuple[str, ...]
    limits: Limits
    kv_cache: KVCachePlan
    vocab_size: int
    sampling: tuple[str, ...]  # supported members of SAMPLING_FIELDS
    sampling_caps: dict[str, float] = {}  # greatest value of a field, e.g. {"top_k": 16}
    memory: tuple[MemoryItem, ...] = ()
    facts: dict[str, str] = {}  # dtype, attention implementation, versions: for GET /info/backend

    def has(self, feature: str) -> bool:
        """Whether `feature` was agreed."""
        return feature in self.features


class Health(Record, frozen=True):
    """Answer of `Worker.health`."""

    ok: bool
    message: str = ""
    memory_bytes: int = (
        0  # most device memory that the worker held at once since it was made; 0 = it does not tell
    )
