"""Command lines and Compose files for TGI 3 are translated to our command line."""

import re

import pytest

from tgi.cli import main
from tgi.cli.migrate import migrate
from tgi.cli.migration.data import KEPT_VARIABLES, REPLACED_VARIABLES
from tgi.cli.migration.readers.files import read_compose, read_line
from tgi.config import OPTIONS, UsageError, parse_arguments, read_environment

IMAGE = "ghcr.io/huggingface/text-generation-inference:3.3.5"

LINES = [
    ("text-generation-launcher --model-id a/b", "tgi serve a/b"),
    ("text-generation-launcher --model-id=a/b -p 8080", "tgi serve a/b --port 8080"),
    ("/usr/local/bin/text-generation-launcher --model-id a/b", "tgi serve a/b"),
    ("nohup text-generation-launcher --model-id a/b", "tgi serve a/b"),
    ("MODEL_ID=a/b NUM_SHARD=2 text-generation-launcher", "tgi serve a/b --num-shard 2"),
    (
        "env MODEL_ID=a/b text-generation-launcher --trust-remote-code",
        "tgi serve a/b --trust-remote-code",
    ),
    (
        "TRUST_REMOTE_CODE=true text-generation-launcher --model-id a/b",
        "tgi serve a/b --trust-remote-code",
    ),
    ("PORT=1 text-generation-launcher --model-id a/b --port 2", "tgi serve a/b --port 2"),
    (
        "text-generation-launcher --model-id a/b --max-input-length 9",
        "tgi serve a/b --max-input-tokens 9",
    ),
    (
        "text-generation-launcher --model-id a/b --sharded true --num-shard 4",
        "tgi serve a/b --sharded true --num-shard 4",
    ),
    (
        "text-generation-launcher --model-id a/b --quantize gptq --cuda-graphs 1,2",
        "tgi serve a/b --quantize gptq",
    ),
    (
        "text-generation-launcher --model-id $MODEL --api-key '${KEY}'",
        "tgi serve $MODEL --api-key '${KEY}'",
    ),
    ('text-generation-launcher --model-id "$HOME/my models/x"', 'tgi serve "$HOME/my models/x"'),
    ("text-generation-launcher --model-id 'my model'", "tgi serve 'my model'"),
    (
        "text-generation-launcher \\\n  --model-id a/b \\\n  --dtype float16  # half",
        "tgi serve a/b --dtype float16",
    ),
    (
        (
            "text-generation-launcher --model-id a/b --cors-allow-origin http://x"
            " --cors-allow-origin http://y"
        ),
        "tgi serve a/b --cors-allow-origin http://x --cors-allow-origin http://y",
    ),
    (
        "HF_TOKEN=t HF_HUB_OFFLINE=1 text-generation-launcher --model-id a/b",
        "HF_TOKEN=t HF_HUB_OFFLINE=1 tgi serve a/b",
    ),
    (f"docker run -p 8080:80 {IMAGE} --model-id a/b", "tgi serve a/b --port 8080"),
    (
        f"docker run --rm -it --gpus all --shm-size 1g -p 8080:80 {IMAGE} --model-id a/b",
        "tgi serve a/b --port 8080",
    ),
    (
        f"sudo docker run --gpus=all --shm-size=1g -p8080:80/tcp {IMAGE} --model-id=a/b",
        "tgi serve a/b --port 8080",
    ),
    (
        f"podman run -d -p 127.0.0.1:9:80 {IMAGE} --model-id a/b",
        "tgi serve a/b --hostname 127.0.0.1 --port 9",
    ),
    (
        f"docker container run -p 8080:3000 -e PORT=3000 {IMAGE} --model-id a/b",
        "tgi serve a/b --port 8080",
    ),
    (f"docker run --network host {IMAGE} --model-id a/b", "tgi serve a/b --port 80"),
    (
        f"docker run -p 80:80 -v $PWD/data:/data -e HF_TOKEN=$token {IMAGE} --model-id a/b",
        "HF_TOKEN=$token HF_HOME=$PWD/data tgi serve a/b --port 80",
    ),
    (
        f"docker run -p 80:80 -v /m:/data:ro {IMAGE} --model-id /data/llama",
        "HF_HOME=/m tgi serve /m/llama --port 80",
    ),
    (
        (
            f"docker run -p 80:80 --mount type=bind,source=/m,target=/models {IMAGE} --model-id"
            " /models/x"
        ),
        "tgi serve /m/x --port 80",
    ),
    (
        f"HF_TOKEN=t docker run -p 80:80 -e HF_TOKEN {IMAGE} --model-id a/b",
        "HF_TOKEN=t tgi serve a/b --port 80",
    ),
    (
        f"docker run -p 80:80 -e MODEL_ID=a/b -e MAX_BATCH_SIZE=4 {IMAGE}",
        "tgi serve a/b --max-batch-size 4 --port 80",
    ),
    (
        f"docker run -p 80:80 --entrypoint text-generation-launcher {IMAGE} --model-id a/b",
        "tgi serve a/b --port 80",
    ),
    (
        f"docker run -p 80:80 {IMAGE} text-generation-launcher --model-id a/b",
        "tgi serve a/b --port 80",
    ),
    (
        (
            "docker run -p 8080:8080 -e HF_MODEL_ID=a/b -e SM_NUM_GPUS=2 -e HF_MODEL_REVISION=r"
            f" {IMAGE}-sagemaker"
        ),
        "tgi serve a/b --revision r --num-shard 2 --port 8080",
    ),
]


@pytest.mark.parametrize(("line", "command"), LINES)
def test_a_line(line, command):
    assert migrate(read_line(line)).command == command


@pytest.mark.parametrize(("line", "command"), LINES)
def test_the_printed_command_can_be_parsed_and_means_the_same(line, command):
    del line
    if "$" not in command:
        start = read_line(command.replace("tgi serve", "text-generation-launcher"))
        assert migrate(start).command == command


@pytest.mark.parametrize(
    ("line", "change"),
    [
        (
            "text-generation-launcher",
            "The default model is the demo model. In TGI 3 it was `bigscience/bloom-560m`.",
        ),
        (
            "text-generation-launcher --model-id a/b",
            "TGI 3 split the model over all visible devices",
        ),
        ("text-generation-launcher --cuda-graphs 0", "`--cuda-graphs` has no effect"),
        (
            "text-generation-launcher --prometheus-port 9",
            "`--prometheus-port` has no effect: metrics are at GET /metrics",
        ),
        (
            "ATTENTION=paged text-generation-launcher",
            "`ATTENTION` has no effect: the backend selects its kernels.",
        ),
        (
            "FOO=1 text-generation-launcher",
            "`FOO` is not a variable of TGI. It is passed on unchanged.",
        ),
        (f"docker run {IMAGE} --model-id a/b", "The container publishes no port for 80"),
        (
            f"docker run -p 80:80 {IMAGE}-rocm --model-id a/b",
            "The image is for AMD GPUs, and no backend for this hardware is installed",
        ),
        (f"docker run -p 80:80 --gpus all {IMAGE} --model-id a/b", "`--gpus all` is not needed"),
        (
            f"docker run -p 80:80 --env-file e {IMAGE} --model-id a/b",
            "The variables in `e` were not read",
        ),
        (
            f"docker run -p 80:80 {IMAGE} --model-id /models/x",
            "`/models/x` is a path inside the container",
        ),
    ],
)
def test_a_change_is_reported(line, change):
    assert [text for text in migrate(read_line(line)).changes if change in text]


def test_a_kept_variable_is_not_reported():
    start = read_line("LOG_LEVEL=debug text-generation-launcher --model-id a/b --num-shard 1")
    assert migrate(start).changes == ()


COMPOSE = """
services:
  web: {image: nginx}
  tgi:
    image: ghcr.io/huggingface/text-generation-inference:latest
    command: --model-id ${MODEL} --max-total-tokens 2048
    environment:
      - HF_TOKEN
      - TRUST_REMOTE_CODE=true
    ports: ["8080:80"]
    volumes: [./cache:/data]
    deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}
  second:
    image: ghcr.io/huggingface/text-generation-inference:latest
    command: [--model-id, a/b, --num-shard, 2]
    environment: {JSON_OUTPUT: true, PORT: 3000, EMPTY:}
    ports: [{target: 3000, published: "81", host_ip: 127.0.0.1}]
    volumes: [{type: bind, source: /x, target: /data}]
"""


def test_a_compose_file():
    starts = {name: migrate(start) for name, start in read_compose(COMPOSE).items()}
    assert {name: migration.command for name, migration in starts.items()} == {
        "tgi": (
            "HF_TOKEN=$HF_TOKEN HF_HOME=./cache tgi serve ${MODEL} --trust-remote-code"
            " --max-total-tokens 2048 --port 8080"
        ),
        "second": (
            "HF_HOME=/x tgi serve a/b --num-shard 2 --hostname 127.0.0.1 --port 81 --json-output"
        ),
    }
    assert any("Reserved devices are not needed" in change for change in starts["tgi"].changes)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("vllm serve x", "the command begins with `vllm`, which does not start TGI"),
        ("", "begins with ``"),
        ("docker run nginx", "the image `nginx` is not an image of TGI"),
        ("docker run -p 80:80", "contains no image"),
        ("docker run -p", "a value is required for '-p'"),
        (
            "text-generation-launcher --model-id 'x",
            "the command cannot be parsed: No closing quotation",
        ),
        ("text-generation-launcher --num-shard N", "invalid value 'N' for '--num-shard'"),
        ("text-generation-launcher --no-such-flag", "unexpected argument '--no-such-flag'"),
        (
            "TRUST_REMOTE_CODE=1 text-generation-launcher",
            "invalid value '1' for '--trust-remote-code'",
        ),
    ],
)
def test_invalid_lines(line, text):
    with pytest.raises(UsageError, match=f".*{re.escape(text)}"):
        migrate(read_line(line))


@pytest.mark.parametrize("text", ["a: [", "services: {}", "services: {web: {image: nginx}}", "- x"])
def test_a_compose_file_without_tgi(text):
    with pytest.raises(UsageError):
        read_compose(text)


def test_the_command(capsys, tmp_path):
    (tmp_path / "compose.yml").write_text(COMPOSE)
    assert main(["migrate", str(tmp_path / "compose.yml")]) == 0
    assert "# second\nHF_HOME=/x tgi serve a/b" in capsys.readouterr().out
    assert main(["migrate", "text-generation-launcher", "--model-id", "a/b"]) == 0
    assert capsys.readouterr().out.startswith("tgi serve a/b\n\nWhat changes:\n* ")
    assert main(["migrate", str(tmp_path / "none.yml")]) == 2
    assert main(["migrate", "vllm serve"]) == 2
    assert capsys.readouterr().err.count("error: ") == 2
    assert main(["migrate", "--help"]) == 0


def test_every_option_of_tgi_survives_its_variable():
    """Each option that is set by its environment variable becomes a flag with the same meaning, or
    a message that explains why it has no effect.
    """
    for row in OPTIONS:
        if not row.environment or row.name in (
            "backend",
            "hostname",
            "num_shard",
            "max_input_length",
            "model_id",
        ):
            continue
        value = (
            row.choices[0]
            if row.choices
            else {bool: "true", int: "7", float: "0.5", str: "x"}[row.kind]
        )
        if row.name == "http_max_head_bytes":
            value = "7000"  # the minimum is 1,024
        if value == str(row.default):
            value = row.choices[1]
        migration = migrate(
            read_line(
                f"{row.environment}={value} text-generation-launcher --model-id a/b --num-shard 2"
            )
        )
        assert row.flag in migration.command or any(
            f"`{row.flag}` has no effect" in text for text in migration.changes
        ), row
        words = migration.command.split()[2:]
        if row.flag in words:
            expected = parse_arguments(
                [], {row.environment: value, "MODEL_ID": "a/b", "NUM_SHARD": "2"}
            ).options
            assert parse_arguments(words, {}).options == expected


def test_variables_are_kept_or_replaced():
    assert not KEPT_VARIABLES & set(REPLACED_VARIABLES)
    read = read_environment({"PREFIX_CACHING": "0", "LOG_LEVEL": "debug", "COMPUTE_TYPE": "x"})
    assert (read.prefix_caching, read.log_level, read.compute_type) == (False, "debug", "x")
    assert {"PREFIX_CACHING", "LOG_LEVEL", "COMPUTE_TYPE"} <= KEPT_VARIABLES
