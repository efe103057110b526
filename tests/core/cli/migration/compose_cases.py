"""Docker Compose files, with the expected commands."""

from tests.core.cli.migration.cases import IMAGE, Case

NAME = "ghcr.io/huggingface/text-generation-inference"


def service(text, image=IMAGE):
    """Return a Compose file with one service."""
    return f"services:\n  tgi:\n    image: {image}\n" + text


CASES = [
    Case(
        "variables_of_the_shell_and_of_the_service",
        service(
            "    restart: always # comment\n    environment:\n      - HUGGING_FACE_HUB_TOKEN=t\n"
            "      - MODEL_ID=o/m\n      - NUM_SHARD=1\n"
            "    command: --model-id $MODEL_ID --num-shard $NUM_SHARD\n"
            '    volumes: ["./:/data"]\n    ports: ["8080:80"]\n',
            f"{NAME}:0.9.3",
        ),
        "HUGGING_FACE_HUB_TOKEN=t tgi serve $MODEL_ID --huggingface-hub-cache ."
        " --num-shard $NUM_SHARD --port 8080",
        (
            "Compose replaces `$MODEL_ID` by the variable of your shell or of `.env`, and not by"
            " the value `o/m`",
            "not converted: `restart`",
        ),
        file="compose.yml",
    ),
    Case(
        "defaults_and_proxies",
        service(
            "    profiles: [codegen]\n    ports: ['${HOST_PORT:-8008}:80']\n"
            '    volumes: ["./data:/data"]\n    environment:\n      no_proxy: ${no_proxy}\n'
            "      HF_TOKEN: ${HUB_TOKEN:?set it}\n      HF_HUB_ENABLE_HF_TRANSFER: 0\n"
            "      MAX_TOTAL_TOKENS: ${MAX_TOTAL_TOKENS:-4096}\n"
            '    healthcheck: {test: ["CMD-SHELL", "curl -f x"]}\n'
            "    command: --model-id ${LLM_MODEL_ID} --cuda-graphs 0\n",
            f"{NAME}:2.4.0-intel-cpu",
        ),
        "no_proxy=${no_proxy} HF_TOKEN=${HUB_TOKEN:?set it} HF_HUB_ENABLE_HF_TRANSFER=0"
        " HF_HOME=./data tgi serve ${LLM_MODEL_ID} --max-total-tokens"
        ' "${MAX_TOTAL_TOKENS:-4096}" --port "${HOST_PORT:-8008}"',
        ("The image is for CPUs. The backend `cpu` is installed.", "`set -a; . ./.env; set +a`"),
        ("over all visible devices",),
        file="compose.yml",
    ),
    Case(
        "gaudi",
        service(
            '    ports: ["8085:80"]\n    volumes: ["./data:/data"]\n    runtime: habana\n'
            "    cap_add: [SYS_NICE]\n    environment:\n      HABANA_VISIBLE_DEVICES: all\n"
            "      ENABLE_HPU_GRAPH: true\n      PREFILL_BATCH_BUCKET_SIZE: 4\n"
            "    command: --model-id o/m --num-shard 8 --sharded true\n",
            "ghcr.io/huggingface/tgi-gaudi:2.3.1",
        ),
        "HABANA_VISIBLE_DEVICES=all HF_HOME=./data tgi serve o/m --sharded true --num-shard 8"
        " --port 8085",
        ("`ENABLE_HPU_GRAPH` has no effect", "The image is for Gaudi"),
        file="compose.yml",
    ),
    Case(
        "a_built_image",
        "services:\n  tgi:\n    build: {context: ., dockerfile: Dockerfile-tgi}\n"
        "    ports: [8081:80]\n    volumes: [./data:/data]\n"
        "    environment:\n      - MODEL_ID=o/m\n"
        "      - DTYPE=float16\n  web: {build: .}\n",
        "HF_HOME=./data tgi serve o/m --dtype float16 --port 8081",
        ("The image is built from a Dockerfile, which was not read",),
        ("# web",),
        file="compose.yml",
    ),
    Case(
        "neuron",
        service(
            '    ports: ["8080:8080"]\n    environment:\n      - PORT=8080\n'
            "      - MODEL_ID=${MODEL_ID}\n      - HF_NUM_CORES=32\n"
            "      - MAX_BATCH_SIZE=${MAX_BATCH_SIZE}\n    volumes: [$PWD:/data]\n"
            '    devices: ["/dev/neuron0"]\n',
            f"{NAME}:latest-neuron",
        ),
        'HF_HOME=$PWD tgi serve "${MODEL_ID}" --max-batch-size "${MAX_BATCH_SIZE}" --port 8080',
        ("`HF_NUM_CORES` has no effect",),
        file="compose.yml",
    ),
    Case(
        "no_published_port_and_a_volume",
        service(
            "    volumes: [cache:/data, ./shared:/data/shared]\n"
            "    environment: [MODEL_ID=/data/shared/m]\nvolumes: {cache: }\n",
            "huggingface/text-generation-inference:latest",
        ),
        "tgi serve ./shared/m",
        ("publishes no port for 80", "The models are on the volume `cache`"),
        ("Port 80 is below",),
        file="compose.yml",
    ),
    Case(
        "entry_points",
        f"""services:
  a:
    image: {IMAGE}
    entrypoint: ["text-generation-launcher", "--json-output"]
    command: ["--model-id", "o/a", "--port", "80"]
    ports: ["8080:80"]
  b:
    image: {IMAGE}
    entrypoint: ["/bin/sh", "-c"]
    command: ["sleep 3 && text-generation-launcher --model-id o/b --port 3001"]
    ports: ["3001:3001"]
  c:
    image: {IMAGE}
    entrypoint: bash -c "text-generation-launcher --model-id $$MODEL --port 3002"
    environment: {{MODEL: o/c}}
    ports: ["3002:3002"]
  d:
    image: {IMAGE}
    entrypoint: []
    command: text-generation-launcher --model-id o/d
    ports: ["3003:80"]
""",
        "tgi serve o/a --port 8080 --json-output\ntgi serve o/b --port 3001\n"
        "tgi serve o/c --port 3002\ntgi serve o/d --port 3003",
        ("Commands of the script were left out: `sleep 3`",),
        file="compose.yml",
    ),
    Case(
        "an_image_in_a_variable",
        service('    command: --model-id o/m\n    ports: ["8080:80"]\n', "${TGI_IMAGE}"),
        "tgi serve o/m --port 8080",
        ("The image `${TGI_IMAGE}` is not known",),
        file="compose.yml",
    ),
    Case(
        "a_quantized_model_and_a_second_mount",
        service(
            '    ports: ["8004:80"]\n    environment: [MODEL_ID=o/m, QUANTIZE=gptq,'
            " CUDA_VISIBLE_DEVICES=2, DISABLE_CUSTOM_KERNELS=true]\n"
            "    volumes: [./models:/data, ./cache:/root/.cache]\n"
        ),
        "CUDA_VISIBLE_DEVICES=2 HF_HOME=./models tgi serve o/m --quantize gptq --port 8004",
        ("`./cache` at `/root/.cache`", "`--quantize gptq` reads checkpoints"),
        ("over all visible devices",),
        file="compose.yaml",
    ),
    Case(
        "devices_of_two_services",
        f"""services:
  a:
    image: {IMAGE}
    command: [--model-id, o/a]
    ports: [{{target: 80, published: 8081}}]
    deploy: {{resources: {{reservations: {{devices: [{{driver: x, device_ids: ["0"]}}]}}}}}}
  b:
    image: {IMAGE}
    command: [--model-id, o/b]
    ports: ["8082:80"]
    deploy: {{resources: {{reservations: {{devices: [{{device_ids: ["1", "2"]}}]}}}}}}
  c:
    image: {IMAGE}
    command: [--model-id, o/c]
    ports: ["8083:80"]
    deploy: {{resources: {{reservations: {{devices: [{{count: 2, capabilities: [gpu]}}]}}}}}}
""",
        "CUDA_VISIBLE_DEVICES=0 tgi serve o/a --port 8081\n"
        "CUDA_VISIBLE_DEVICES=1,2 tgi serve o/b --num-shard 2 --port 8082\n"
        "CUDA_VISIBLE_DEVICES=0,1 tgi serve o/c --num-shard 2 --port 8083",
        file="compose.yml",
    ),
    Case(
        "a_literal_dollar_sign",
        service(
            '    command: ["--model-id", "o/m", "--api-key", "pa$$word"]\n    ports: ["8080:80"]\n'
        ),
        "tgi serve o/m --port 8080 --api-key 'pa$word'",
        (),
        (".env",),
        file="compose.yml",
    ),
    Case(
        "one_service_is_invalid",
        f"""services:
  a: {{image: {IMAGE}, command: --model-id o/a --no-such-flag}}
  b: {{image: {IMAGE}, command: --model-id o/b --num-shard $N, ports: ["8080:80"]}}
""",
        None,
        ("a: error: unexpected argument '--no-such-flag' found", "tgi serve o/b --num-shard $N"),
        file="two.yml",
    ),
    Case(
        "names_of_other_services_and_secrets",
        service(
            "    environment: {OTLP_ENDPOINT: 'http://otel:4317'}\n    command: --model-id o/m\n"
            '    secrets: [token]\n    user: "1000"\n    ports: ["127.0.0.1:8080:80"]\n'
            "    deploy: {replicas: 2, resources: {limits: {memory: 9g}}}\n  otel: {image: otel}\n"
        ),
        "tgi serve o/m --hostname 127.0.0.1 --port 8080 --otlp-endpoint http://otel:4317",
        (
            "The host name `otel` is known only inside of the Compose network",
            "`user`, `secrets`, `deploy.replicas`, `deploy.resources.limits`",
        ),
        file="compose.yml",
    ),
    Case(
        "anchors_and_long_forms",
        f"""x-base: &base
  image: {IMAGE}
  environment: &env {{HF_HUB_OFFLINE: 1}}
services:
  tgi:
    <<: *base
    environment: {{<<: *env, JSON_OUTPUT: true, HF_TOKEN: }}
    command: >
      --model-id "o/m"
      --otlp-service-name 'a b'
    ports: [{{target: 80, published: "8081", host_ip: 127.0.0.1}}]
    volumes: [{{type: bind, source: ~/d, target: /data}}, {{type: tmpfs, target: /x}}]
    env_file: [{{path: one.env}}, two.env]
""",
        "HF_HUB_OFFLINE=1 HF_TOKEN=$HF_TOKEN HF_HOME=~/d tgi serve o/m --hostname 127.0.0.1"
        " --port 8081 --json-output --otlp-service-name 'a b'",
        ("The variables in `one.env` were not read", "The variables in `two.env` were not read"),
        file="compose.yml",
    ),
    Case(
        "no_service_of_tgi",
        "services: {web: {image: nginx}}\n",
        None,
        ("no service in the Compose file has an image of TGI",),
        file="compose.yml",
    ),
    Case(
        "invalid_yaml",
        "a: [\n",
        None,
        ("the file is not valid YAML",),
        file="compose.yml",
    ),
]
