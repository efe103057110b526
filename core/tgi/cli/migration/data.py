"""Tables of the images and environment variables of TGI 3, for `tgi migrate`. The sources are TGI's
Dockerfiles, entry points and server code.
"""

from __future__ import annotations

__all__ = [
    "IMAGE_PORT",
    "IMAGE_VARIANTS",
    "KEPT_VARIABLES",
    "MODEL_CACHE",
    "REPLACED_VARIABLES",
    "SAGEMAKER_PORT",
    "SAGEMAKER_VARIABLES",
]

IMAGE_PORT = 80
SAGEMAKER_PORT = 8080
MODEL_CACHE = "/data"
"""The value of `HF_HOME` in the images."""

SAGEMAKER_VARIABLES = {
    "HF_MODEL_ID": "MODEL_ID",
    "HF_MODEL_REVISION": "REVISION",
    "SM_NUM_GPUS": "NUM_SHARD",
    "HF_MODEL_QUANTIZE": "QUANTIZE",
    "HF_MODEL_TRUST_REMOTE_CODE": "TRUST_REMOTE_CODE",
}

IMAGE_VARIANTS = {
    "intel-cpu": "for CPUs: use `tgi[cpu]`",
    "intel-xpu": "for Intel GPUs: use the backend `xpu`",
    "rocm": "for AMD GPUs: use the backend `rocm`",
    "gaudi": "for Gaudi: use the backend `gaudi`",
    "neuron": "for Trainium and Inferentia: use the backend `neuron`",
    "trtllm": "for TensorRT-LLM: use the backend `cuda` with the original model",
    "llamacpp": "for llama.cpp: use `tgi[cpu]` with the model in safetensors format",
}
"""Maps a part of the tag of an image to the hardware of the image and the replacement."""

KEPT_VARIABLES = frozenset(
    {
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_API_TOKEN",
        "HF_HOME",
        "HF_HUB_OFFLINE",
        "HF_HUB_ENABLE_HF_TRANSFER",
        "HF_ENDPOINT",
        "PREFIX_CACHING",
        "COMPUTE_TYPE",
        "LOG_LEVEL",
        "CUDA_VISIBLE_DEVICES",
        "NVIDIA_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "ZE_AFFINITY_MASK",
        "HABANA_VISIBLE_DEVICES",
        "OMP_NUM_THREADS",
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
}
"""Maps each variable that has no effect in tgi to the reason or the replacement."""
