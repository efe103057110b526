"""The records of negotiation: the description of a backend, the requested limits, and the
negotiated limits (`Agreement`).
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
    "Dtype",
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

Dtype = Literal["float32", "float16", "bfloat16"]
"""The dtypes in which a worker can compute."""

API_VERSION = (2, 0)
"""Version of the backend interface. A plugin is loaded only if its major version equals this major
version and its minor version is not higher than this minor version.
"""

FEATURES = frozenset(
    {
        "prefix_cache",
        "state_snapshots",
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
"""The features that can be negotiated. A backend agrees only on features that are in
`RequestedLimits.features`. Neither side uses a feature that was not negotiated.
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
    """An option that a plugin adds. The user writes it as `--<backend>-<name>`."""

    name: str
    help: str
    default: str = ""
    choices: tuple[str, ...] = ()


class BackendInfo(Record, frozen=True):
    """The description of a backend. Creating it must import no framework."""

    name: str
    api: tuple[int, int]
    package: str  # name of the distribution
    version: str
    # `auto` selects the usable backend with the highest priority. A backend whose priority is below
    # 0 is selected only if no other backend is usable.
    priority: int = 0
    selectable: bool = True  # whether `auto` may select this backend
    options: tuple[BackendOption, ...] = ()
    # The core reads this field before it downloads a model. A model in another format is rejected
    # without calling `Backend.supports`.
    model_files: ModelFilesWanted = ModelFilesWanted()


class DeviceInfo(Record, frozen=True):
    """One device, with the names that an operator knows."""

    id: str
    label: str
    memory_bytes: int = 0


class ProbeResult(Record, frozen=True):
    """Whether a backend can run on this machine. If not, `reason` contains the cause and a
    remedy.
    """

    usable: bool
    reason: str = ""
    devices: tuple[DeviceInfo, ...] = ()


class MemoryItem(Record, frozen=True):
    """One line of the memory table that is printed at startup."""

    label: str
    num_bytes: int
    detail: str = ""


class Implementation(Record, frozen=True):
    """The implementation of one operation, and the reason for the rejection of each alternative.
    `tgi doctor` prints this record.
    """

    operation: str  # a name that an operator knows: "attention", "weights", "sampling"
    chosen: str
    others: tuple[tuple[str, str], ...] = ()  # (implementation, why it was rejected), best first


class Support(Record, frozen=True):
    """Whether a backend can run a model with given options."""

    status: Literal["native", "slow", "no"]
    reasons: tuple[str, ...] = ()
    memory: tuple[MemoryItem, ...] = ()


class EngineConfig(Record, frozen=True):
    """The settings with which the engine process creates a worker. `dtype`, `quantize` and
    `kv_cache_dtype` are None if the user did not set them.
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
    options: dict[str, str] = {}  # values of the options that the plugin adds
    cache_dir: str = ""
    model_format: str = SAFETENSORS.name  # one of `ModelFilesWanted.formats`


class RequestedLimits(Record, frozen=True):
    """The limits that the user requested. A value of None means that the backend decides. If the
    backend cannot provide a requested value, startup fails with an error message.
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
    """Limits of every step, and rules for the composition of a step."""

    max_total_tokens: int  # maximum number of tokens of one sequence
    max_sequences: int
    max_step_tokens: int
    mixed: bool = True  # whether a step may contain both prefill and decode rows
    chunked: bool = True  # whether a prompt may be split over several steps
    # The length of every prefill chunk except the last one is a multiple of this number.
    chunk_multiple: int = 1
    max_prefills: int = 0  # maximum number of prefill rows in one step; 0 = no limit
    decode_rows_first: bool = False
    depth: int = 1  # maximum number of steps in flight
    # Maximum of `Rows.max_tokens`. It is above 1 only with `multi_token` or `drafts`.
    tokens_per_step: int = 1
    max_adapters: int = 0  # maximum number of loaded adapters; above 0 only with `lora`
    max_adapter_rank: int = 0


class CacheGroup(Record, frozen=True):
    """Layers that share one block table. The core allocates blocks 0 … `num_blocks` - 1.

    In a group of the kind `state`, each running sequence has one block. With the feature
    `state_snapshots`, the other blocks contain snapshots, so more blocks than sequences are useful.
    """

    kind: Literal["full", "window", "state", "cross"]
    num_blocks: int
    window: int = 0


class KVCachePlan(Record, frozen=True):
    """The division of the cache: into blocks that the core allocates, or into slots that contain
    one sequence each.
    """

    mode: Literal["paged", "slots"]
    block_size: int = 0
    groups: tuple[CacheGroup, ...] = ()
    num_sequence_slots: int = 0
    sequence_slot_tokens: int = 0
    # If true, the memory of a block is allocated when the block is first used. The core therefore
    # reuses blocks before it uses new ones.
    on_demand: bool = False

    @property
    def max_batch_total_tokens(self) -> int:
        """Number of tokens that the cache can contain over all sequences. The number is 0 if the
        cache contains only recurrent states, because their size does not depend on the number of
        tokens.
        """
        if self.mode == "slots":
            return self.num_sequence_slots * self.sequence_slot_tokens
        return (
            min((g.num_blocks for g in self.groups if g.kind in ("full", "window")), default=0)
            * self.block_size
        )


class Agreement(Record, frozen=True):
    """The negotiated limits and features. The decisions of the core depend on them and never on the
    name of a device.
    """

    api: tuple[int, int]
    features: tuple[str, ...]
    limits: Limits
    kv_cache: KVCachePlan
    vocab_size: int
    sampling: tuple[str, ...]  # supported members of SAMPLING_FIELDS
    sampling_caps: dict[str, float] = {}  # maximum value of a field, e.g. {"top_k": 16}
    memory: tuple[MemoryItem, ...] = ()
    # Facts such as the dtype, the attention implementation and versions. `GET /info/backend`
    # returns these facts.
    facts: dict[str, str] = {}
    # Dtype of the hidden vectors between the layers. The conformance suite derives the tolerance of
    # its comparisons from this field. If the fact `dtype` is present, it has the same value.
    dtype: Dtype = "float32"

    def has(self, feature: str) -> bool:
        """Whether `feature` was negotiated."""
        return feature in self.features


class Health(Record, frozen=True):
    """The result of `Worker.health`."""

    ok: bool
    message: str = ""
    # Maximum device memory in bytes that the worker used at once. The value is 0 if the worker does
    # not report it.
    memory_bytes: int = 0
