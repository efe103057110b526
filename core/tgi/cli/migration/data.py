"""Tables of the images and environment variables of TGI 3, for `tgi migrate`. The sources are TGI's
Dockerfiles, entry points and server code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

__all__ = [
    "APPTAINER_DEVICE_FLAGS",
    "APPTAINER_SWITCHES",
    "CONTAINER_DEVICES_VARIABLE",
    "DEVICE_COUNT_VARIABLES",
    "DEVICE_PROGRAM",
    "DEVICE_RESOURCE",
    "DEVICE_RUNTIME",
    "DROPPED_FLAGS",
    "FORMER_MODEL_CACHE_VARIABLE",
    "GPU_DEVICE_PREFIX",
    "HUB_CACHE_VERSION",
    "IMAGE_NAMES",
    "IMAGE_PORT",
    "IMAGE_VARIANTS",
    "KEPT_VARIABLES",
    "MODEL_CACHE",
    "OWN_VERSIONS",
    "PATH_VARIABLES",
    "PLATFORM_PORT_VARIABLE",
    "RENAMED_FLAGS",
    "REPLACED_VARIABLES",
    "REPLACED_VARIABLE_PREFIXES",
    "SAGEMAKER_PORT",
    "SAGEMAKER_VARIABLES",
    "SELECTED_DEVICES_VARIABLE",
    "ImageVariant",
]

IMAGE_PORT = 80
SAGEMAKER_PORT = 8080
MODEL_CACHE = "/data"
"""The value of `HF_HOME` in the images since 2.3.0."""

HUB_CACHE_VERSION = (2, 3)
"""Images before this version do not set `HF_HOME`. They set `HUGGINGFACE_HUB_CACHE` to
`MODEL_CACHE`.
"""
FORMER_MODEL_CACHE_VARIABLE = "HUGGINGFACE_HUB_CACHE"

PLATFORM_PORT_VARIABLE = "AIP_HTTP_PORT"
"""The variable whose port takes precedence over `--port`."""

SELECTED_DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"
"""The variable with which a process selects its accelerators."""
CONTAINER_DEVICES_VARIABLE = "NVIDIA_VISIBLE_DEVICES"
"""The variable with which a container selects its accelerators."""
DEVICE_COUNT_VARIABLES = (
    SELECTED_DEVICES_VARIABLE,
    CONTAINER_DEVICES_VARIABLE,
    "ZE_AFFINITY_MASK",
)
"""The variables whose entries TGI 3 counts if `--num-shard` is not given."""
GPU_DEVICE_PREFIX = "nvidia.com/gpu="
"""The prefix of an accelerator in `--device`."""
DEVICE_PROGRAM = "nvidia-docker"
"""The program that runs a container with all accelerators."""
DEVICE_RUNTIME = "nvidia"
"""The container runtime that makes all accelerators visible."""
DEVICE_RESOURCE = "nvidia.com/gpu"
"""The name of accelerators in the resource limits of Kubernetes."""

SAGEMAKER_VARIABLES = {
    "HF_MODEL_ID": "MODEL_ID",
    "HF_MODEL_REVISION": "REVISION",
    "SM_NUM_GPUS": "NUM_SHARD",
    "HF_MODEL_QUANTIZE": "QUANTIZE",
    "HF_MODEL_TRUST_REMOTE_CODE": "TRUST_REMOTE_CODE",
}


@final
@dataclass(frozen=True)
class ImageVariant:
    """The hardware for which an image was built: a display name for messages, and the names of the
    backends for this hardware.
    """

    hardware: str
    backends: tuple[str, ...]


IMAGE_VARIANTS = {
    "intel-cpu": ImageVariant("CPUs", ("cpu",)),
    "intel-xpu": ImageVariant("Intel GPUs", ("xpu",)),
    "rocm": ImageVariant("AMD GPUs", ("rocm",)),
    "gaudi": ImageVariant("Gaudi", ("gaudi",)),
    "neuron": ImageVariant("Trainium and Inferentia", ("neuron",)),
    "tpu": ImageVariant("TPUs", ("tpu",)),
    "trtllm": ImageVariant("NVIDIA GPUs with TensorRT-LLM", ("cuda",)),
    "llamacpp": ImageVariant("llama.cpp", ("cpu",)),
    "": ImageVariant("NVIDIA GPUs", ("cuda",)),
}
"""Maps a part of the name or the tag of an image to the hardware of the image. The last entry is
the image without such a part.
"""

IMAGE_NAMES = {
    "huggingface-pytorch-tgi-inference": "sagemaker",
    "huggingface-text-generation-inference": "vertex",
    "text-generation-inference": "",
    "tgi-gaudi": "",
    "neuronx-tgi": "",
    "tpu-tgi": "",
    "optimum-tpu": "",
}
"""Maps a part of the name of each official image to its platform."""

OWN_VERSIONS = ("tpu-tgi", "optimum-tpu")
"""The images whose versions are not those of TGI. They set `HF_HOME`."""

RENAMED_FLAGS = {"--auth-token": "--api-key"}
"""Maps flags that only the launchers of some images have to flags of `tgi serve`."""

_ENGINE = "tgi compiles the model itself"
_LLAMA = "it is an option of llama.cpp"
DROPPED_FLAGS = {
    "--executor-worker": (True, _ENGINE),
    "--model-gguf": (True, "name the GGUF file as the model: tgi serve FILE.gguf"),
    "--n-threads": (True, _LLAMA),
    "--n-threads-batch": (True, _LLAMA),
    "--n-gpu-layers": (True, _LLAMA),
    "--split-mode": (True, _LLAMA),
    "--defrag-threshold": (True, _LLAMA),
    "--numa": (True, _LLAMA),
    "--disable-mmap": (False, _LLAMA),
    "--use-mlock": (False, _LLAMA),
    "--disable-offload-kqv": (False, _LLAMA),
    "--disable-flash-attention": (False, _LLAMA),
    "--type-k": (True, _LLAMA),
    "--type-v": (True, _LLAMA),
    "--max-physical-batch-total-tokens": (True, _LLAMA),
    "--disable-usage-stats": (False, "nothing is ever sent"),
    "--disable-crash-reports": (False, "nothing is ever sent"),
    "--enable-cuda-graphs": (False, "the backend decides about graphs"),
    "--messages-api-enabled": (False, "the chat routes are always available"),
}
"""The flags of some images or old versions of TGI that have no effect in tgi. Each value contains
whether the flag takes a value, and the reason for which the flag has no effect.
"""

APPTAINER_DEVICE_FLAGS = frozenset({"--nv", "--rocm", "--nvccli"})
"""The flags of `apptainer run` that make all accelerators visible."""
APPTAINER_SWITCHES = APPTAINER_DEVICE_FLAGS | frozenset(
    (
        *("--cleanenv", "-e", "--contain", "-c", "--containall", "-C", "--writable", "-w"),
        *("--writable-tmpfs", "--no-home", "--fakeroot", "-f", "--no-init", "--ipc", "-i"),
        *("--pid", "-p", "--net", "-n", "--uts", "--userns", "-u", "--compat", "--no-privs"),
        *("--no-eval", "--no-umask", "--unsquash", "--disable-cache", "--no-https"),
        *("-s", "-q", "-v", "-d", "--exclusive", "--overlap", "--no-kill", "--label", "-l"),
        *("--unbuffered", "--wait"),
    )
)
"""The flags of `apptainer run` and `srun` that take no value."""

PATH_VARIABLES = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_DATASETS_CACHE",
    "HF_ASSETS_CACHE",
    "HF_MODULES_CACHE",
    "HF_TOKEN_PATH",
    "TRANSFORMERS_CACHE",
    "XDG_CACHE_HOME",
    "TRITON_CACHE_DIR",
    "NUMBA_CACHE_DIR",
    "TMPDIR",
)
"""Variables whose value is a path, which is different outside of a container."""

KEPT_VARIABLES = frozenset(
    {
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_API_TOKEN",
        *PATH_VARIABLES,
        "HF_HUB_OFFLINE",
        "HF_HUB_ENABLE_HF_TRANSFER",
        "HF_HUB_DISABLE_PROGRESS_BARS",
        "HF_HUB_DISABLE_TELEMETRY",
        "HF_HUB_DOWNLOAD_TIMEOUT",
        "HF_XET_HIGH_PERFORMANCE",
        "HF_ENDPOINT",
        "TRANSFORMERS_OFFLINE",
        "AIP_PREDICT_ROUTE",
        "AIP_HEALTH_ROUTE",
        "DOCKER_LABEL",
        "PREFIX_CACHING",
        "COMPUTE_TYPE",
        "LOG_LEVEL",
        "CUDA_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "ZE_AFFINITY_MASK",
        "HABANA_VISIBLE_DEVICES",
        "OMP_NUM_THREADS",
        "HSA_OVERRIDE_GFX_VERSION",
        "NCCL_DEBUG",
        "PYTORCH_CUDA_ALLOC_CONF",
        "TZ",
        "LANG",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
    }
)
"""Variables that have the same meaning in tgi, or that libraries read."""

_CHOSEN_BY_BACKEND = "the backend selects its kernels"
_PLATFORM = "the routes of the platform are always available"
_NO_SUCH_DEVICE = "it configures the backend that TGI 3 used in this image"
_DRIVER = "it configures the container, not the server"
_TUNED_BY_BACKEND = "the backend tunes its kernels during warm-up"

REPLACED_VARIABLES = {
    "ATTENTION": _CHOSEN_BY_BACKEND,
    "USE_FLASH_ATTENTION": _CHOSEN_BY_BACKEND,
    "USE_CUTLASS_W8A8": _CHOSEN_BY_BACKEND,
    "EXLLAMA_VERSION": _CHOSEN_BY_BACKEND,
    "DISABLE_EXLLAMA": _CHOSEN_BY_BACKEND,
    "EXLLAMA_NO_FLASH_ATTN": _CHOSEN_BY_BACKEND,
    "ROCM_USE_FLASH_ATTN_V2_TRITON": _CHOSEN_BY_BACKEND,
    "ROCM_USE_CUSTOM_PAGED_ATTN": _CHOSEN_BY_BACKEND,
    "ROCM_USE_SKINNY_GEMM": _CHOSEN_BY_BACKEND,
    "PYTORCH_TUNABLEOP_ENABLED": _TUNED_BY_BACKEND,
    "PYTORCH_TUNABLEOP_TUNING": _TUNED_BY_BACKEND,
    "PYTORCH_TUNABLEOP_SEQLENS": _TUNED_BY_BACKEND,
    "PYTORCH_TUNABLEOP_TUNING_AFTER_WARMUP": _TUNED_BY_BACKEND,
    "PREFILL_CHUNKING": "prompts are split into chunks if the backend supports it",
    "REQUEST_LOGPROBS": "use `--enable-prefill-logprobs`",
    "TGI_WIGGLE_ROOM": "use `--cuda-memory-fraction`",
    "XPU_MEMORY_FRACTION": "use `--cuda-memory-fraction`",
    "MAX_IMAGE_FETCH_SIZE": "images are not accepted yet",
    "HF_HUB_USER_AGENT_ORIGIN": "the server collects no usage statistics",
    "HF_KERNELS_CACHE": "no kernels are downloaded",
    "LOG_COLORIZE": "log lines are never coloured",
    "LOG_FORMAT": "use `--json-output`",
    "RANK": "each backend starts its own ranks",
    "WORLD_SIZE": "use `--num-shard`",
    "SAFETENSORS_FAST_GPU": "the backend decides how weights are read",
    "RUST_LOG": "use `LOG_LEVEL`",
    "RUST_BACKTRACE": "the server is not written in Rust",
    "MESSAGES_API_ENABLED": "the chat routes are always available",
    "AIP_MODE": _PLATFORM,
    "AIP_STORAGE_URI": (
        "a Vertex AI image serves the model at this address instead of `MODEL_ID`; download the"
        " model and set `--model-id` to its folder"
    ),
    "USE_CACHE": "the server always uses a KV cache",
    "HF_TASK": "the server only generates text",
    "HF_NUM_CORES": "it set the number of cores over which the model was split; use `--num-shard`",
    "HF_BATCH_SIZE": "use `--max-batch-size`",
    "HF_SEQUENCE_LENGTH": "use `--max-total-tokens`",
    "HF_AUTO_CAST_TYPE": "use `--dtype`",
    "HF_OPTIMUM_BATCH_SIZE": "use `--max-batch-size`",
    "HF_OPTIMUM_SEQUENCE_LENGTH": "use `--max-total-tokens`",
    "MODEL_CACHE_ROOT": _PLATFORM,
    "SAGEMAKER_CONTAINER_LOG_LEVEL": "use `LOG_LEVEL`",
    "SAGEMAKER_REGION": _PLATFORM,
    "ENABLE_HPU_GRAPH": _NO_SUCH_DEVICE,
    "LIMIT_HPU_GRAPH": _NO_SUCH_DEVICE,
    "SKIP_TOKENIZER_IN_TGI": _NO_SUCH_DEVICE,
    "PREFILL_BATCH_BUCKET_SIZE": _NO_SUCH_DEVICE,
    "BATCH_BUCKET_SIZE": _NO_SUCH_DEVICE,
    "PAD_SEQUENCE_TO_MULTIPLE_OF": _NO_SUCH_DEVICE,
    "MAX_WARMUP_SEQUENCE_LENGTH": _NO_SUCH_DEVICE,
    "TEXT_GENERATION_SERVER_IGNORE_EOS_TOKEN": "use `ignore_eos` in requests",
    "SDP_ON_BF16": _NO_SUCH_DEVICE,
    "DISABLE_SGMV": _NO_SUCH_DEVICE,
    "TGI_GRAPH_RESERVED_MEM": _NO_SUCH_DEVICE,
    "USE_EXPERT_PARALLEL": _NO_SUCH_DEVICE,
    "NEURON_RT_NUM_CORES": _NO_SUCH_DEVICE,
    "NEURON_RT_VISIBLE_CORES": _NO_SUCH_DEVICE,
    "NVIDIA_DRIVER_CAPABILITIES": _DRIVER,
    "NVIDIA_REQUIRE_CUDA": _DRIVER,
    "NVIDIA_DISABLE_REQUIRE": _DRIVER,
    "MODEL": "use `--model-id`",
}
"""Maps each variable that has no effect in tgi to the reason or the replacement."""

REPLACED_VARIABLE_PREFIXES = {
    "PT_HPU_": _NO_SUCH_DEVICE,
    "HPU_": _NO_SUCH_DEVICE,
    "VLLM_": _NO_SUCH_DEVICE,
    "HABANA_LOGS": _NO_SUCH_DEVICE,
    "OMPI_MCA_": _NO_SUCH_DEVICE,
    "PJRT_": _NO_SUCH_DEVICE,
    "XLA_": _NO_SUCH_DEVICE,
    "NEURON_CC_": _NO_SUCH_DEVICE,
    "LLAMA": _LLAMA,
}
"""Maps prefixes of the names of variables that have no effect in tgi to the reason."""
