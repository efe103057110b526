"""The closed table of serving options: every launcher option of TGI 3 under its name, and the few
that are ours.

A field is a row; flag and environment variable follow from its name. Where the default is None the
value is derived: from the model, from memory, or by the backend. Source: TGI 3
`launcher/src/main.rs`. A new row needs a decision record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from tgi.config.option import Option, option, option_rows

__all__ = ["OPTIONS", "ServeOptions"]

_MODEL, _HARDWARE, _LIMITS = "Model", "Hardware", "Limits"
_SCHEDULING, _SERVER, _LOGS = "Scheduling", "Server", "Logs and telemetry"

_U32 = 2**32 - 1
_NOT_YET = "this version does not implement it yet"
_NO_SOCKETS = "backends start and reach their own ranks"

_QUANTIZE = (
    "awq",
    "compressed-tensors",
    "eetq",
    "exl2",
    "gptq",
    "marlin",
    "bitsandbytes",
    "bitsandbytes-nf4",
    "bitsandbytes-fp4",
    "fp8",
    "int8",
    "int4",
)


@final
@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Options of `tgi serve` and `text-generation-launcher`. Lengths are in tokens."""

    model_id: str | None = option(
        None,
        _MODEL,
        "Model to serve: a local directory or a hub id. Without one the demo is served.",
    )
    revision: str | None = option(None, _MODEL, "Branch, tag or commit of the model on the hub.")
    tokenizer_config_path: str | None = option(
        None, _MODEL, "A tokenizer_config.json whose chat template replaces the model's."
    )
    huggingface_hub_cache: str | None = option(None, _MODEL, "Folder that holds downloaded models.")
    weights_cache_override: str | None = option(
        None, _MODEL, "Folder that holds the model; nothing is fetched then."
    )
    trust_remote_code: bool = option(
        False, _MODEL, "Allow code that a model repository brings. Only with models you trust."
    )
    quantize: str | None = option(
        None,
        _MODEL,
        "Quantization of the weights: a checkpoint's own, or one made while loading.",
        choices=_QUANTIZE,
    )
    speculate: int | None = option(
        None, _MODEL, "Tokens guessed ahead per step.", minimum=0, no_effect=_NOT_YET
    )
    dtype: str | None = option(
        None, _MODEL, "Precision of the weights in use.", choices=("float16", "bfloat16", "float32")
    )
    kv_cache_dtype: str | None = option(
        None, _MODEL, "Precision of the KV cache.", choices=("fp8_e4m3fn", "fp8_e5m2")
    )
    rope_scaling: str | None = option(
        None, _MODEL, "Rotary scaling in place of the model's.", choices=("linear", "dynamic")
    )
    rope_factor: float | None = option(
        None, _MODEL, "Factor of `--rope-scaling`; alone it means linear scaling."
    )
    lora_adapters: str | None = option(
        None, _MODEL, "Adapters: comma list of id, id@revision or name=/path.", no_effect=_NOT_YET
    )

    backend: str = option(
        "auto", _HARDWARE, "Backend to use; `auto` takes the usable one of highest priority."
    )
    sharded: bool | None = option(
        None, _HARDWARE, "Whether to split the model over devices.", takes_value=True
    )
    num_shard: int | None = option(None, _HARDWARE, "Devices to split the model over.", minimum=0)
    cuda_graphs: tuple[int, ...] | None = option(
        None,
        _HARDWARE,
        "Batch sizes to record graphs for; 0 = none.",
        separator=",",
        minimum=0,
        no_effect=_NOT_YET,
    )
    cuda_memory_fraction: float = option(1.0, _HARDWARE, "Share of the device's memory to use.")
    disable_custom_kernels: bool = option(
        False,
        _HARDWARE,
        "Run some models on plain operations.",
        no_effect="there are no such kernels",
    )
    shard_uds_path: str = option(
        "/tmp/text-generation-server",  # noqa: S108
        _HARDWARE,
        "Socket path of shards.",
        no_effect=_NO_SOCKETS,
    )
    master_addr: str = option(
        "localhost", _HARDWARE, "Address of the first rank.", no_effect=_NO_SOCKETS
    )
    master_port: int = option(
        29500, _HARDWARE, "Port of the first rank.", minimum=0, no_effect=_NO_SOCKETS
    )

    max_concurrent_requests: int = option(
        128, _LIMITS, "Requests at a time; more get status 429.", minimum=0
    )
    max_best_of: int = option(2, _LIMITS, "Greatest `best_of`.", minimum=0)
    max_stop_sequences: int = option(4, _LIMITS, "Most stop sequences of a request.", minimum=0)
    max_top_n_tokens: int = option(5, _LIMITS, "Greatest `top_n_tokens`.", minimum=0, maximum=_U32)
    max_input_tokens: int | None = option(
        None, _LIMITS, "Longest prompt; default `--max-total-tokens` - 1.", minimum=0
    )
    max_input_length: int | None = option(
        None, _LIMITS, "Old name of `--max-input-tokens`.", minimum=0
    )
    max_total_tokens: int | None = option(
        None, _LIMITS, "Longest prompt and output together.", minimum=0
    )
    max_client_batch_size: int = option(
        4, _LIMITS, "Most prompts in one completions request.", minimum=0
    )
    payload_limit: int = option(2_000_000, _LIMITS, "Largest request body in bytes.", minimum=0)
    enable_prefill_logprobs: bool = option(
        False, _LIMITS, "Allow log probabilities of prompt tokens."
    )
    disable_grammar_support: bool = option(False, _LIMITS, "Refuse grammars.")

    waiting_served_ratio: float = option(
        0.3, _SCHEDULING, "Waiting over running requests at which decoding pauses for a prefill."
    )
    max_waiting_tokens: int = option(
        20, _SCHEDULING, "Decode steps after which waiting requests come first.", minimum=0
    )
    max_batch_prefill_tokens: int | None = option(
        None, _SCHEDULING, "Most prompt tokens in one step.", minimum=0, maximum=_U32
    )
    max_batch_total_tokens: int | None = option(
        None, _SCHEDULING, "Most tokens in the KV cache.", minimum=0, maximum=_U32
    )
    max_batch_size: int | None = option(None, _SCHEDULING, "Most sequences in one step.", minimum=0)
    validation_workers: int = option(2, _SCHEDULING, "Tokenizer threads.", minimum=0)
    watermark_gamma: float | None = option(
        None, _SCHEDULING, "Share of tokens that a watermark favours."
    )
    watermark_delta: float | None = option(None, _SCHEDULING, "How much a watermark favours them.")

    hostname: str = option("0.0.0.0", _SERVER, "IP address to listen on.")  # noqa: S104 - TGI's default; containers need it
    port: int = option(3000, _SERVER, "Port to listen on.", short="-p", minimum=0, maximum=65535)
    prometheus_port: int = option(
        9000,
        _SERVER,
        "Port of metrics.",
        minimum=0,
        maximum=65535,
        no_effect="metrics are at GET /metrics of the main port",
    )
    cors_allow_origin: tuple[str, ...] = option(
        (), _SERVER, "Origin that browsers may call from; repeatable; default all."
    )
    api_key: str | None = option(None, _SERVER, "Key that requests must bear.")
    graceful_termination_timeout: int = option(
        90, _SERVER, "Seconds that open requests get after SIGTERM.", short="-g", minimum=0
    )
    ngrok: bool = option(
        False, _SERVER, "Open an ngrok tunnel.", no_effect="run ngrok beside the server"
    )
    ngrok_authtoken: str | None = option(
        None, _SERVER, "Token of the tunnel.", no_effect="run ngrok beside the server"
    )
    ngrok_edge: str | None = option(
        None, _SERVER, "Edge of the tunnel.", no_effect="run ngrok beside the server"
    )

    json_output: bool = option(False, _LOGS, "Log JSON lines.")
    otlp_endpoint: str | None = option(
        None,
        _LOGS,
        "Where to send traces over OTLP: a URL; gRPC, or HTTP with port 4318 or a path. Needs the"
        " extra `otlp`.",
    )
    otlp_service_name: str = option(
        "text-generation-inference.router", _LOGS, "Name of this service in traces."
    )
    usage_stats: str = option(
        "on",
        _LOGS,
        "Usage statistics.",
        choices=("on", "off", "no-stack"),
        no_effect="nothing is ever sent",
    )
    env: bool = option(
        False,
        _LOGS,
        "Print versions and the machine, then start.",
        short="-e",
        has_environment=False,
    )


OPTIONS: tuple[Option, ...] = option_rows(ServeOptions)
"""The rows, in the order of the help."""
