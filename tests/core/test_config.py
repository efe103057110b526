"""The option table, and the parsing of flags and environment variables."""

import pytest

from tgi.config import (
    OPTIONS,
    PluginOption,
    ServeOptions,
    UsageError,
    bind_address,
    check_options,
    notes_on_options,
    num_shard_of,
    parse_arguments,
    read_environment,
    read_plugin_options,
)
from tgi.errors import ConfigError

# The options of TGI 3 and their defaults, from `text-generation-launcher --help`.
TGI_OPTIONS = {
    # TGI's default is bigscience/bloom-560m. Our default is the demo model.
    "model-id": None,
    "revision": None,
    "validation-workers": 2,
    "sharded": None,
    "num-shard": None,
    "quantize": None,
    "speculate": None,
    "dtype": None,
    "kv-cache-dtype": None,
    "trust-remote-code": False,
    "max-concurrent-requests": 128,
    "max-best-of": 2,
    "max-stop-sequences": 4,
    "max-top-n-tokens": 5,
    "max-input-tokens": None,
    "max-input-length": None,
    "max-total-tokens": None,
    "waiting-served-ratio": 0.3,
    "max-batch-prefill-tokens": None,
    "max-batch-total-tokens": None,
    "max-waiting-tokens": 20,
    "max-batch-size": None,
    "cuda-graphs": None,
    "hostname": "0.0.0.0",
    "port": 3000,
    "prometheus-port": 9000,
    "shard-uds-path": "/tmp/text-generation-server",
    "master-addr": "localhost",
    "master-port": 29500,
    "huggingface-hub-cache": None,
    "weights-cache-override": None,
    "disable-custom-kernels": False,
    "cuda-memory-fraction": 1.0,
    "rope-scaling": None,
    "rope-factor": None,
    "json-output": False,
    "otlp-endpoint": None,
    "otlp-service-name": "text-generation-inference.router",
    "cors-allow-origin": (),
    "api-key": None,
    "watermark-gamma": None,
    "watermark-delta": None,
    "ngrok": False,
    "ngrok-authtoken": None,
    "ngrok-edge": None,
    "tokenizer-config-path": None,
    "disable-grammar-support": False,
    "env": False,
    "max-client-batch-size": 4,
    "lora-adapters": None,
    "usage-stats": "on",
    "payload-limit": 2_000_000,
    "enable-prefill-logprobs": False,
    "graceful-termination-timeout": 90,
}


def parse(*arguments, **variables):
    return parse_arguments(arguments, variables, ["null"]).options


OUR_OPTIONS = {
    "backend": "auto",
    "tool-call-parser": "auto",
    "reasoning-parser": "auto",
    "max-concurrent-requests-per-client": None,
    "http-max-connections": None,
    "http-max-head-bytes": 65_536,
    "http-max-headers": 100,
    "http-head-timeout": 30,
    "http-body-timeout": 60,
    "http-write-timeout": 60,
    "http-keep-alive-timeout": 620,
}


def test_the_options_are_those_of_tgi_and_ours():
    assert {row.flag.removeprefix("--"): row.default for row in OPTIONS} == {
        **TGI_OPTIONS,
        **OUR_OPTIONS,
    }
    assert parse() == ServeOptions()


def test_environment_variables_have_tgis_names():
    by_flag = {row.flag: row.environment for row in OPTIONS}
    assert by_flag["--max-batch-prefill-tokens"] == "MAX_BATCH_PREFILL_TOKENS"
    assert by_flag["--env"] == ""
    assert parse(ENV="true").env is False


def test_the_command_line_has_priority_over_the_environment():
    assert parse("--port", "81", PORT="80").port == 81
    assert parse(PORT="80").port == 80


@pytest.mark.parametrize(
    "words", [["--port", "81"], ["--port=81"], ["-p", "81"], ["-p81"], ["-p=81"]]
)
def test_spellings_of_a_value(words):
    assert parse(*words).port == 81


def test_a_positional_argument_is_the_model():
    assert parse("owner/name", "--port", "1").model_id == "owner/name"


def test_values_have_their_types():
    options = parse(
        *[
            "--sharded",
            "true",
            "--cuda-graphs",
            "1,2,4",
            "--cors-allow-origin",
            "a",
            "--cors-allow-origin",
            "b,c",
        ],
        *["--waiting-served-ratio", "1.5", "--trust-remote-code", "-g", "3", "-e", "--api-key="],
    )
    assert (options.sharded, options.cuda_graphs, options.cors_allow_origin) == (
        True,
        (1, 2, 4),
        ("a", "b,c"),
    )
    assert (
        options.waiting_served_ratio,
        options.trust_remote_code,
        options.graceful_termination_timeout,
    ) == (1.5, True, 3)
    assert (options.env, options.api_key) == (True, "")


def test_an_empty_variable_counts_as_set():
    assert parse(API_KEY="").api_key == ""
    with pytest.raises(
        UsageError, match=r"invalid value '' for '--port' \(from the variable 'PORT'\)"
    ):
        parse(PORT="")


@pytest.mark.parametrize("value", ["1", "True", "yes", "", "on"])
def test_a_boolean_variable_accepts_only_true_or_false(value):
    assert parse(JSON_OUTPUT="true").json_output
    assert not parse(JSON_OUTPUT="false").json_output
    with pytest.raises(UsageError, match="possible values: true, false"):
        parse(JSON_OUTPUT=value)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--prot", "1"], "unexpected argument '--prot' found"),
        (["-x"], "unexpected argument '-x' found"),
        (["--port"], "a value is required for '--port'"),
        (["--port", "--env"], "a value is required for '--port'"),
        (["--port", "1", "--port", "2"], "'--port' cannot be used multiple times"),
        (["a", "b"], "'MODEL' cannot be used multiple times"),
        (["--port", "many"], "invalid value 'many' for '--port'; it must be an integer"),
        (["--port", "1_0"], "invalid value '1_0' for '--port'; it must be an integer"),
        (["--port", "65536"], "invalid value '65536' for '--port'; it must be <= 65535"),
        (["--port", "-1"], "invalid value '-1' for '--port'; it must be >= 0"),
        (["--rope-factor", "x"], "invalid value 'x' for '--rope-factor'; it must be a number"),
        (
            ["--quantize", "AWQ"],
            "invalid value 'AWQ' for '--quantize'; possible values: awq, compressed-tensors",
        ),
        (["--json-output=true"], "unexpected value 'true' for '--json-output'"),
        (["--cuda-graphs", "1,,2"], "invalid value '' for '--cuda-graphs'"),
    ],
)
def test_usage_errors_have_a_clear_message(words, text):
    with pytest.raises(UsageError, match=text):
        parse(*words)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"max_input_tokens": 9, "max_input_length": 8},
            r"Both `max_input_tokens` \(9\) and `max_input_length` \(8\) are set",
        ),
        (
            {"max_input_length": 9, "max_total_tokens": 9},
            r"`max_input_tokens`\(9\) must be < `max_total_tokens`\(9\)",
        ),
        ({"validation_workers": 0}, "`validation_workers` must be > 0"),
        ({"max_batch_size": 0}, "`max_batch_size` must be > 0"),
        ({"max_concurrent_requests": 0}, "`max_concurrent_requests` must be > 0"),
        (
            {"max_total_tokens": 9, "max_batch_total_tokens": 8},
            "must be <= `max_batch_total_tokens`. Given: 9 and 8",
        ),
        (
            {"max_batch_prefill_tokens": 9, "max_batch_total_tokens": 8},
            "`max_batch_prefill_tokens` must be <= .* Given: 9 and 8",
        ),
        ({"num_shard": 0}, "`num_shard` cannot be < 1"),
        ({"sharded": True}, "`sharded` is true but `num_shard` is not given"),
        ({"sharded": True, "num_shard": 1}, "`sharded` is true but `num_shard` <= 1"),
        ({"quantize": "exl2", "num_shard": 2}, "not supported with `exl2`"),
        (
            {"quantize": "awq", "dtype": "float16"},
            "Only 1 can be set between `dtype` and `quantize`",
        ),
        ({"cuda_memory_fraction": float("nan")}, "`cuda_memory_fraction` must be > 0 and <= 1"),
        ({"api_key": ""}, "`api_key` is empty"),
        ({"api_key": " "}, "`api_key` is empty"),
        ({"cors_allow_origin": ("*", "a")}, "`cors_allow_origin` contains both `\\*` and an"),
    ],
)
def test_contradictions(values, text):
    with pytest.raises(ConfigError, match=text):
        check_options(ServeOptions(**values))


def test_consistent_options_are_accepted():
    check_options(
        ServeOptions(
            max_input_tokens=8,
            max_total_tokens=9,
            max_batch_total_tokens=9,
            num_shard=2,
            sharded=False,
        )
    )
    check_options(ServeOptions(quantize="bitsandbytes-nf4", dtype="float16"))
    assert num_shard_of(ServeOptions(sharded=False, num_shard=3)) == 3
    assert num_shard_of(ServeOptions()) == 1


def test_an_option_without_effect_is_reported_if_it_is_set():
    assert notes_on_options(ServeOptions()) == ()
    (note,) = notes_on_options(ServeOptions(prometheus_port=9001))
    assert (
        note == "`--prometheus-port` has no effect: metrics are at GET /metrics of the main port."
    )


def test_a_hostname_that_is_no_address_becomes_any_address():
    assert bind_address(ServeOptions(hostname="::1")) == ("::1", "")
    assert bind_address(ServeOptions(hostname="b2f1c0")) == (
        "0.0.0.0",
        "Invalid hostname, defaulting to 0.0.0.0",
    )


def test_plugin_options():
    parsed = parse_arguments(["--null-script", "a.json"], {}, ["null"])
    declared = [PluginOption("script"), PluginOption("mode", "slow", ("slow", "fast"))]
    read = {"script": "a.json", "mode": "slow"}
    assert read_plugin_options("null", declared, parsed.plugin_values, {}) == read
    assert read_plugin_options("null", declared, {}, {"NULL_MODE": "fast"}) == {
        "script": "",
        "mode": "fast",
    }
    with pytest.raises(UsageError, match="'--null-script' for the backend `other`"):
        read_plugin_options("other", declared, parsed.plugin_values, {})
    with pytest.raises(
        UsageError, match="invalid value 'x' for '--null-mode'; possible values: slow, fast"
    ):
        read_plugin_options("null", declared, {"--null-mode": "x"}, {})
    with pytest.raises(UsageError, match="unexpected argument '--other-script'"):
        parse("--other-script", "a.json")


def test_variables_without_a_flag():
    environment = read_environment(
        {"HUGGING_FACE_HUB_TOKEN": "t", "HF_HUB_OFFLINE": "1", "PREFIX_CACHING": "0"}
    )
    assert (environment.hf_token, environment.hf_hub_offline, environment.prefix_caching) == (
        "t",
        True,
        False,
    )
    assert read_environment({"XDG_CACHE_HOME": "/c"}).cache_folder == "/c/tgi"
    assert read_environment({}).prefix_caching


@pytest.mark.parametrize(
    ("text", "port"), [("8080", 8080), ("", None), ("x", None), ("70000", None), ("-1", None)]
)
def test_vertex_ai_variables(text, port):
    environment = read_environment(
        {"AIP_HTTP_PORT": text, "AIP_PREDICT_ROUTE": "/p", "AIP_HEALTH_ROUTE": ""}
    )
    assert environment.aip_http_port == port
    assert (environment.aip_predict_route, environment.aip_health_route) == ("/p", None)
