"""The table of serving options: all launcher options of TGI 3 under the same names, and a few
additional options.

Each field is an option. The flag and the environment variable are derived from the name of the
field. If the default is None, the value is derived from the model, from the available memory or by
the backend. Source: TGI 3 `launcher/src/main.rs`. A new option needs a page in `decisions/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from tgi.config.option import Option, option, option_rows
from tgi.config.quantization import QUANTIZATION_MEANINGS

__all__ = ["OPTIONS", "REASONING_PARSERS", "TOOL_CALL_PARSERS", "ServeOptions"]

_MODEL, _HARDWARE, _LIMITS = "Model", "Hardware", "Limits"
_SCHEDULING, _SERVER, _LOGS = "Scheduling", "Server", "Logs and telemetry"

TOOL_CALL_PARSERS = (
    *("auto", "none", "gpt_oss", "glm45", "deepseek_v3", "mistral", "granite", "hermes"),
    *("llama3_json", "tgi"),
)
"""The values of `--tool-call-parser`. A test compares them with those of `tgi.text.output`."""

REASONING_PARSERS = ("auto", "none", "gpt_oss", "mistral", "think", "granite")
"""The values of `--reasoning-parser`. A test compares them with those of `tgi.text.output`."""

_U32 = 2**32 - 1
_SEPARATE_STEPS = (
    " It has an effect only on backends that run prefill and decode in separate steps. It has no"
    " effect on `cpu`."
)
_NOT_YET = "this version does not implement it yet"
_NO_SOCKETS = "each backend starts and connects its own ranks"


@final
@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Options of `tgi serve` and `text-generation-launcher`. Lengths are in tokens."""

    model_id: str | None = option(
        None,
        _MODEL,
        "Model to serve: a local folder, a model file or a hub id. The default is the demo model.",
    )
    revision: str | None = option(None, _MODEL, "Branch, tag or commit of the model on the hub.")
    tokenizer_config_path: str | None = option(
        None,
        _MODEL,
        "Path of a tokenizer_config.json. Its chat template replaces that of the model.",
    )
    huggingface_hub_cache: str | None = option(None, _MODEL, "Folder for downloaded models.")
    weights_cache_override: str | None = option(
        None, _MODEL, "Folder that contains the complete model. Nothing is downloaded."
    )
    trust_remote_code: bool = option(
        False,
        _MODEL,
        "Allow the server to run code from the model repository. Use this option only"
        " with models that you trust.",
    )
    quantize: str | None = option(
        None,
        _MODEL,
        "Quantization of the weights: that of the checkpoint, or one that is applied"
        " while the weights are loaded.",
        choices=tuple(QUANTIZATION_MEANINGS),
    )
    speculate: int | None = option(
        None, _MODEL, "Number of draft tokens per step.", minimum=0, no_effect=_NOT_YET
    )
    dtype: str | None = option(
        None, _MODEL, "Data type of the weights.", choices=("float16", "bfloat16", "float32")
    )
    kv_cache_dtype: str | None = option(
        None, _MODEL, "Data type of the KV cache.", choices=("fp8_e4m3fn", "fp8_e5m2", "int8")
    )
    rope_scaling: str | None = option(
        None,
        _MODEL,
        "Rotary scaling method. It replaces the method of the model.",
        choices=("linear", "dynamic"),
    )
    rope_factor: float | None = option(
        None,
        _MODEL,
        "Factor for `--rope-scaling`. Without `--rope-scaling`, the scaling is linear.",
    )
    lora_adapters: str | None = option(
        None,
        _MODEL,
        "Adapters to load: a comma-separated list of id, id@revision or name=/path.",
        no_effect=_NOT_YET,
    )

    tool_call_parser: str = option(
        "auto",
        _MODEL,
        "Format in which the model writes tool calls. `auto` selects the format from the chat"
        " template, and `none` disables tools.",
        choices=TOOL_CALL_PARSERS,
    )
    reasoning_parser: str = option(
        "auto",
        _MODEL,
        "Format in which the model writes its reasoning. `auto` selects the format from the chat"
        " template, and `none` treats reasoning as text.",
        choices=REASONING_PARSERS,
    )

    backend: str = option(
        "auto",
        _HARDWARE,
        "Backend to use. `auto` selects the usable backend with the highest priority.",
    )
    sharded: bool | None = option(
        None, _HARDWARE, "Whether to split the model over several devices.", takes_value=True
    )
    num_shard: int | None = option(
        None, _HARDWARE, "Number of devices over which the model is split.", minimum=0
    )
    cuda_graphs: tuple[int, ...] | None = option(
        None,
        _HARDWARE,
        "Batch sizes for which graphs are captured. 0 disables graphs.",
        separator=",",
        minimum=0,
        no_effect=_NOT_YET,
    )
    cuda_memory_fraction: float = option(
        1.0, _HARDWARE, "Fraction of the device memory that the server may use."
    )
    disable_custom_kernels: bool = option(
        False,
        _HARDWARE,
        "Run some models without custom kernels.",
        no_effect="the server has no such kernels",
    )
    shard_uds_path: str = option(
        "/tmp/text-generation-server",  # noqa: S108
        _HARDWARE,
        "Socket path of the shards.",
        no_effect=_NO_SOCKETS,
    )
    master_addr: str = option(
        "localhost", _HARDWARE, "Address of the first rank.", no_effect=_NO_SOCKETS
    )
    master_port: int = option(
        29500, _HARDWARE, "Port of the first rank.", minimum=0, no_effect=_NO_SOCKETS
    )

    max_concurrent_requests: int = option(
        128,
        _LIMITS,
        "Maximum number of concurrent requests. Further requests fail with status 429.",
        minimum=0,
    )
    max_concurrent_requests_per_client: int | None = option(
        None,
        _LIMITS,
        "Maximum number of concurrent requests per client address. Without this option, a client"
        " may use every concurrency slot for which no other client is waiting.",
        minimum=1,
    )
    max_best_of: int = option(2, _LIMITS, "Maximum `best_of`.", minimum=0)
    max_stop_sequences: int = option(
        4, _LIMITS, "Maximum number of stop sequences per request.", minimum=0
    )
    max_top_n_tokens: int = option(5, _LIMITS, "Maximum `top_n_tokens`.", minimum=0, maximum=_U32)
    max_input_tokens: int | None = option(
        None,
        _LIMITS,
        "Maximum number of prompt tokens per sequence. The default is `--max-total-tokens` - 1.",
        minimum=0,
    )
    max_input_length: int | None = option(
        None, _LIMITS, "Old name of `--max-input-tokens`.", minimum=0
    )
    max_total_tokens: int | None = option(
        None, _LIMITS, "Maximum number of prompt and output tokens per sequence.", minimum=0
    )
    max_client_batch_size: int = option(
        4, _LIMITS, "Maximum number of prompts per completions request.", minimum=0
    )
    payload_limit: int = option(
        2_000_000, _LIMITS, "Maximum size of a request body in bytes.", minimum=0
    )
    enable_prefill_logprobs: bool = option(
        False, _LIMITS, "Allow requests for the log probabilities of prompt tokens."
    )
    disable_grammar_support: bool = option(False, _LIMITS, "Reject requests with a grammar.")

    waiting_served_ratio: float = option(
        0.3,
        _SCHEDULING,
        "Ratio of waiting to running requests at which decoding pauses for a prefill."
        + _SEPARATE_STEPS,
    )
    max_waiting_tokens: int = option(
        20,
        _SCHEDULING,
        "Number of decode steps after which decoding pauses for waiting requests."
        + _SEPARATE_STEPS,
        minimum=0,
    )
    max_batch_prefill_tokens: int | None = option(
        None, _SCHEDULING, "Maximum number of prompt tokens per step.", minimum=0, maximum=_U32
    )
    max_batch_total_tokens: int | None = option(
        None, _SCHEDULING, "Maximum number of tokens in the KV cache.", minimum=0, maximum=_U32
    )
    max_batch_size: int | None = option(
        None, _SCHEDULING, "Maximum number of sequences per step.", minimum=0
    )
    validation_workers: int = option(2, _SCHEDULING, "Number of tokenizer threads.", minimum=0)
    watermark_gamma: float | None = option(
        None, _SCHEDULING, "Fraction of the tokens that a watermark favours."
    )
    watermark_delta: float | None = option(
        None, _SCHEDULING, "Value that a watermark adds to the logits of the favoured tokens."
    )

    hostname: str = option("0.0.0.0", _SERVER, "IP address to listen on.")  # noqa: S104 - TGI's default; containers need it
    port: int = option(3000, _SERVER, "Port to listen on.", short="-p", minimum=0, maximum=65535)
    prometheus_port: int = option(
        9000,
        _SERVER,
        "Port for metrics.",
        minimum=0,
        maximum=65535,
        no_effect="metrics are at GET /metrics of the main port",
    )
    cors_allow_origin: tuple[str, ...] = option(
        (),
        _SERVER,
        "Origin from which browsers may call the API. The option can be repeated. The default is "
        "all origins.",
    )
    api_key: str | None = option(None, _SERVER, "API key that requests must contain.")
    graceful_termination_timeout: int = option(
        90,
        _SERVER,
        "Maximum time in seconds for open requests to finish after SIGTERM.",
        short="-g",
        minimum=0,
    )
    http_max_connections: int | None = option(
        None,
        _SERVER,
        "Maximum number of open connections. The default is the number of file descriptors that"
        " are free at startup. 16 more connections are accepted for health checks.",
        minimum=1,
    )
    http_max_head_bytes: int = option(
        65_536,
        _SERVER,
        "Maximum size in bytes of the request line and the headers of a request.",
        minimum=1024,
    )
    http_max_headers: int = option(
        100, _SERVER, "Maximum number of headers per request.", minimum=1
    )
    http_head_timeout: int = option(
        30, _SERVER, "Maximum time in seconds to receive the headers of a request.", minimum=1
    )
    http_body_timeout: int = option(
        60, _SERVER, "Maximum time in seconds without a new byte of a request body.", minimum=1
    )
    http_write_timeout: int = option(
        60,
        _SERVER,
        "Maximum time in seconds in which a client reads nothing of its response. The client is "
        "then disconnected.",
        minimum=1,
    )
    http_keep_alive_timeout: int = option(
        620,
        _SERVER,
        "Time in seconds after which a connection without requests is closed. It must exceed the"
        " idle timeout of a load balancer in front of the server.",
        minimum=1,
    )
    ngrok: bool = option(
        False, _SERVER, "Open an ngrok tunnel.", no_effect="run ngrok as a separate program"
    )
    ngrok_authtoken: str | None = option(
        None, _SERVER, "Token of the ngrok tunnel.", no_effect="run ngrok as a separate program"
    )
    ngrok_edge: str | None = option(
        None, _SERVER, "Edge of the ngrok tunnel.", no_effect="run ngrok as a separate program"
    )

    json_output: bool = option(False, _LOGS, "Write log lines as JSON.")
    otlp_endpoint: str | None = option(
        None,
        _LOGS,
        "URL to which traces are sent with OTLP. The protocol is gRPC, or HTTP if the URL"
        " has port 4318 or a path. Requires the extra `otlp`.",
    )
    otlp_service_name: str = option(
        "text-generation-inference.router", _LOGS, "Service name in traces."
    )
    usage_stats: str = option(
        "on",
        _LOGS,
        "Whether to send usage statistics.",
        choices=("on", "off", "no-stack"),
        no_effect="nothing is ever sent",
    )
    env: bool = option(
        False,
        _LOGS,
        "Log the versions and the machine at startup.",
        short="-e",
        has_environment=False,
    )


OPTIONS: tuple[Option, ...] = option_rows(ServeOptions)
"""All options, in the order of the help text."""
