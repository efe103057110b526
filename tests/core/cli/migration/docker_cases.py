"""`docker run` commands and their relatives, with the expected commands."""

from tests.core.cli.migration.cases import DOCKER, IMAGE, Case

NAME = "ghcr.io/huggingface/text-generation-inference"
RUN = "docker run -p 8080:80"

CASES = [
    Case(
        "a_number_is_a_variable",
        f"{DOCKER} -v $volume:/data {IMAGE} --model-id $model --num-shard $num_shard",
        "HF_HOME=$volume tgi serve $model --num-shard $num_shard --port 8080",
        ("Set `$model` first",),
    ),
    Case(
        "every_kind_of_option_is_a_variable",
        f"{RUN} -e MAX_TOTAL_TOKENS=$total -e TRUST_REMOTE_CODE=$trust -e SHARDED=$split {IMAGE}"
        " --model-id o/m --quantize $q --rope-factor $f --max-batch-size=${n:-8} -p$port",
        "TRUST_REMOTE_CODE=$trust tgi serve o/m --quantize $q --rope-factor $f"
        ' --sharded "$split" --max-total-tokens "$total" --max-batch-size ${n:-8} --port $port',
        ("publishes no port for $port (published: 80)",),
    ),
    Case(
        "the_home_folder",
        f"{DOCKER} -v ~/.cache/huggingface/:/data {NAME}:3.0.1 --model-id o/m --num-shard 2",
        "HF_HOME=~/.cache/huggingface tgi serve o/m --num-shard 2 --port 8080",
        ("rejects an option on this machine: `--num-shard 2`",),
    ),
    Case(
        "two_devices_and_an_old_image",
        """docker run --gpus '"device=0,1"' --shm-size 1g --publish 9123:80 \\
            --volume /models/all:/models --volume /nvme/patched:/opt/patched \\
            registry.example/huggingface/text-generation-inference:1.4 --model-id /models/coder \\
            --rope-scaling dynamic --rope-factor 8 --max-input-length 31 --max-total-tokens 32""",
        "CUDA_VISIBLE_DEVICES=0,1 tgi serve /models/all/coder --rope-scaling dynamic"
        " --rope-factor 8 --num-shard 2 --max-input-tokens 31 --max-total-tokens 32"
        " --port 9123",
        ("the 2 visible devices", "These mounts are not converted", "`/nvme/patched`"),
    ),
    Case(
        "another_program_in_the_container",
        f"docker run --entrypoint ./start.sh --gpus all -p 9123:80 {IMAGE} --model-id o/m",
        None,
        ("the container runs `./start.sh` instead of the launcher",),
    ),
    Case(
        "a_user_and_an_image_of_a_commit",
        f'docker run -u "$UID:$GID" -p 8080:80 -v $volume:/data {NAME}:sha-ae466a8'
        " --model-id $model --sharded false",
        "HF_HOME=$volume tgi serve $model --sharded false --port 8080",
        ("The version of the image is not in its name", "not converted: `--user`"),
    ),
    Case(
        "an_image_in_variables",
        "docker run --device=/dev/kfd --group-add video -p $service_port:80 -v $volume:/data"
        " $image:$version --model-id $model --max-input-length $n --max-total-tokens $t",
        "HF_HOME=$volume tgi serve $model --max-input-tokens $n --max-total-tokens $t"
        ' --port "$service_port"',
        ("The image `$image:$version` is not known",),
    ),
    Case(
        "limits_that_every_version_rejects",
        f"{RUN} {NAME}:latest-rocm --model-id o/m --max-input-length 4 --max-total-tokens 4",
        None,
        ("`max_input_tokens`(4) must be < `max_total_tokens`(4)",),
    ),
    Case(
        "an_image_for_amd_gpus",
        "docker run -d --name llm --restart unless-stopped --cap-add=SYS_PTRACE --device=/dev/kfd"
        " --device=/dev/dri -e HSA_OVERRIDE_GFX_VERSION=11.0.0 -e HF_TOKEN=$HF_TOKEN -p 8080:80"
        f" {NAME}:latest-rocm --model-id o/m --dtype float16",
        "HSA_OVERRIDE_GFX_VERSION=11.0.0 HF_TOKEN=$HF_TOKEN tgi serve o/m --dtype float16"
        " --port 8080",
        ("for AMD GPUs, and no backend", "not converted: `--detach`, `--restart`"),
        ("over all visible devices", "is no variable", "backend `rocm`"),
    ),
    Case(
        "the_image_of_gaudi",
        f"{RUN} --runtime=habana -e HABANA_VISIBLE_DEVICES=all -e PT_HPU_LAZY_MODE=1"
        " --ipc=host -v /srv/d:/data ghcr.io/huggingface/tgi-gaudi:2.0.1 --model-id o/m"
        " --sharded true --num-shard 2",
        "HABANA_VISIBLE_DEVICES=all tgi serve o/m --huggingface-hub-cache /srv/d --sharded true"
        " --num-shard 2 --port 8080",
        ("The image is for Gaudi", "`PT_HPU_LAZY_MODE` has no effect"),
    ),
    Case(
        "the_former_image_of_neuron",
        "docker run --privileged -ti -p 8000:80 -v ~/.cache/huggingface:/root/.cache/huggingface"
        ' -e MODEL_ID="o/m" -e HF_TOKEN=$(cat ~/token) -e HF_AUTO_CAST_TYPE="fp16"'
        " -e HF_NUM_CORES=2 -e MAX_BATCH_SIZE=8 ghcr.io/huggingface/neuronx-tgi:0.0.23",
        "HF_TOKEN=$(cat ~/token) tgi serve o/m --max-batch-size 8 --port 8000",
        (
            "The image is for Trainium and Inferentia",
            "the number of cores over which the model was split",
            "`HF_AUTO_CAST_TYPE` has no effect: use `--dtype`",
        ),
    ),
    Case(
        "the_current_image_of_neuron",
        "docker run --rm -p 8080:80 -v $(pwd)/data:/data --device=/dev/neuron0 -e HF_BATCH_SIZE=1"
        f" -e HF_TOKEN=${{HF_TOKEN}} {NAME}:3.3.4-neuron --model-id=o/m --max-batch-size 1",
        "HF_TOKEN=${HF_TOKEN} HF_HOME=$(pwd)/data tgi serve o/m --max-batch-size 1 --port 8080",
        ("`/dev/neuron0`", "`HF_BATCH_SIZE` has no effect"),
    ),
    Case(
        "the_image_for_tpus",
        "docker run -p 8080:80 -v $PWD:/data --privileged --net=host"
        " ghcr.io/huggingface/tpu-tgi:v0.2.3-tgi --model-id o/m",
        "HF_HOME=$PWD tgi serve o/m --port 8080",
        ("The image is for TPUs. The backend `tpu` is installed.",),
    ),
    Case(
        "the_model_is_a_mount",
        f"docker run -d --gpus all -ti -p 8080:80 -e MODEL_ID=/workspace -e NUM_SHARD=$n"
        f" -v $model:/workspace {NAME}:latest",
        'tgi serve $model --num-shard "$n" --port 8080',
        ("Set `$model` first",),
    ),
    Case(
        "arguments_of_the_script",
        """docker run --gpus '"device='$3'"' -e HUGGING_FACE_HUB_TOKEN=$token -p $port:80 \\
            -v "/srv/cache":/cache -v $PWD:$PWD ghcr.io/huggingface/text-generation-inference \\
            --model-id $PWD/m --num-shard 4 --huggingface-hub-cache "/cache" --json-output""",
        "HUGGING_FACE_HUB_TOKEN=$token CUDA_VISIBLE_DEVICES=$3 tgi serve $PWD/m"
        ' --huggingface-hub-cache /srv/cache --num-shard 4 --port "$port" --json-output',
        ("uses arguments of the script: `$3`",),
    ),
    Case(
        "podman",
        "podman run -d --replace --name tgi --device nvidia.com/gpu=all"
        " --security-opt=label=disable"
        f" -p 127.0.0.1:8080:80 -v ./hf:/data:Z -e HF_TOKEN {IMAGE} --model-id o/m",
        "HF_TOKEN=$HF_TOKEN HF_HOME=./hf tgi serve o/m --hostname 127.0.0.1 --port 8080",
        ("over all visible devices",),
    ),
    Case(
        "operations",
        """docker run -d --restart always --init --gpus '"device=2"' --memory 64g --cpus=8 \\
            --ulimit memlock=-1 --health-cmd "curl -f http://localhost:80/health || exit 1" \\
            -p 8080:80 -v /srv/models:/data:ro -e HF_HUB_OFFLINE=1 --env-file prod.env \\
            ghcr.io/huggingface/text-generation-inference:2.4.1 --model-id /data/big \\
            --api-key k3y""",
        "HF_HUB_OFFLINE=1 HF_HOME=/srv/models CUDA_VISIBLE_DEVICES=2 tgi serve /srv/models/big"
        " --port 8080 --api-key k3y",
        (
            "The variables in `prod.env` were not read",
            "`--restart`, `--memory`, `--cpus`, `--ulimit`, `--health-cmd`",
        ),
        ("over all visible devices", "is not needed"),
    ),
    Case(
        "only_an_image",
        f"docker run --gpus all {NAME}",
        "tgi serve",
        ("publishes no port for 80", "it was `bigscience/bloom-560m`"),
    ),
    Case(
        "nvidia_docker",
        f"nvidia-docker run --rm -p 8080:80 -v /srv/m:/data {NAME}:0.9 --model-id o/m"
        " --disable-custom-kernels",
        "tgi serve o/m --huggingface-hub-cache /srv/m --port 8080",
        ("over all visible devices",),
    ),
    Case(
        "nvidia_docker_with_one_device",
        f"NV_GPU=1 nvidia-docker run -p 8080:80 {NAME}:0.9 --model-id o/m",
        "CUDA_VISIBLE_DEVICES=1 tgi serve o/m --port 8080",
    ),
    Case(
        "a_placeholder",
        f"{DOCKER} -e HF_TOKEN=<your-token> -v $PWD/data:/data {NAME}:2.2.0 --model-id o/m",
        "HF_TOKEN='<your-token>' tgi serve o/m --huggingface-hub-cache $PWD/data --port 8080",
        ("`<your-token>` is a placeholder",),
    ),
    Case(
        "tensorrt",
        "docker run --gpus all -v /srv/engines:/repository --rm -it -p 3001:3001 -e PORT=3001"
        f" -e MODEL=o/m {NAME}:3.3.5-trtllm --executor-worker /bin/worker --tokenizer-name o/m"
        " --auth-token k /repository",
        "tgi serve o/m --port 3001 --api-key k",
        ("`--executor-worker` has no effect", "`/repository` is not converted", "TensorRT"),
    ),
    Case(
        "llama_cpp",
        f"docker run -p 3001:3000 -e PORT=3000 {NAME}:latest-llamacpp --model-id o/m"
        " --model-gguf models/m.gguf --n-gpu-layers 99 --use-mlock",
        "tgi serve o/m --port 3001",
        ("`--model-gguf` has no effect", "`--use-mlock` has no effect"),
    ),
    Case(
        "a_cluster_of_flags",
        f"docker run -dp 8080:80 --gpus all -v /srv/hf:/data {NAME}:3.0 --model-id o/m",
        "HF_HOME=/srv/hf tgi serve o/m --port 8080",
    ),
    Case(
        "a_cluster_with_its_value",
        f"docker --context far -l debug container run -itp8080:80 -e=A=b {IMAGE} --model-id o/m",
        "A=b tgi serve o/m --port 8080",
        ("`A` is not a variable of TGI",),
    ),
    Case(
        "flags_with_values_before_the_image",
        f"docker run --pids-limit 9 --add-host a:1.2.3.4 --log-opt max-size=1m --cidfile x"
        f" --sysctl net.core.somaxconn=9 --label-file l --tmpfs /t -p 8080:80 {IMAGE}"
        " --model-id o/m",
        "tgi serve o/m --port 8080",
    ),
    Case(
        "an_unknown_flag",
        f"docker run --no-such-flag x {IMAGE} --model-id o/m",
        None,
        ("`--no-such-flag` is not a known flag of `docker run`",),
    ),
    Case(
        "an_old_cache",
        f"{DOCKER} -e HF_HUB_OFFLINE=1 -v /srv/tgi:/data {NAME}:1.4 --model-id o/m",
        "HF_HUB_OFFLINE=1 tgi serve o/m --huggingface-hub-cache /srv/tgi --port 8080",
    ),
    Case(
        "a_newer_cache",
        f"{RUN} -v /srv/tgi:/data {NAME}:2.3.0 --model-id o/m",
        "HF_HOME=/srv/tgi tgi serve o/m --port 8080",
    ),
    Case(
        "a_cache_inside_of_the_mount",
        f"{RUN} -e HF_HUB_CACHE=/data/hub2 -e HF_DATASETS_CACHE=/tmp/d -v /srv/tgi:/data {IMAGE}"
        " --model-id o/m",
        "HF_HUB_CACHE=/srv/tgi/hub2 tgi serve o/m --port 8080",
        ("`HF_DATASETS_CACHE` is left out, because `/tmp/d` is a path inside the container",),
    ),
    Case(
        "the_longest_mount",
        f"{RUN} -v /srv/b:/data/sub -v /srv/a:/data -v /srv/c:/data/su {IMAGE}"
        " --model-id /data/sub/x",
        "HF_HOME=/srv/a tgi serve /srv/b/x --port 8080",
        ("not converted, because no option names them: `/srv/c` at `/data/su`",),
    ),
    Case(
        "a_volume_of_docker",
        f"{RUN} -v models:/data {IMAGE} --model-id o/m",
        "tgi serve o/m --port 8080",
        ("The models are on the volume `models`",),
    ),
    Case(
        "sagemakers_image",
        "docker run --gpus all -p 8080:8080 -e HF_MODEL_ID=o/m -e SM_NUM_GPUS=1 -e USE_CACHE=true"
        " -e MESSAGES_API_ENABLED=true 763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-"
        "pytorch-tgi-inference:2.4.0-tgi2.4.0-gpu-py311-cu124-ubuntu22.04",
        "tgi serve o/m --num-shard 1 --port 8080",
        ("The variables of SageMaker", "`USE_CACHE` has no effect"),
        ("publishes no port",),
    ),
    Case(
        "sagemakers_variables_with_the_plain_image",
        f"docker run -p 8080:8080 -e HF_MODEL_ID=o/m -e HF_MODEL_QUANTIZE=bitsandbytes"
        f" {NAME}:2.4.0",
        "tgi serve o/m --quantize bitsandbytes --port 8080",
        ("The launcher of TGI 3 does not read `HF_MODEL_ID`",),
    ),
    Case(
        "the_image_of_vertex_ai",
        "docker run --gpus all -p 8081:8080 -e AIP_MODE=PREDICTION -e AIP_HTTP_PORT=8080"
        " -e AIP_STORAGE_URI=gs://bucket/model -e MODEL_ID=o/m -e NUM_SHARD=1"
        " us-docker.pkg.dev/deeplearning-platform-release/gcr.io/huggingface-text-generation-"
        "inference-cu124.2-4.ubuntu2204.py311",
        "tgi serve o/m --num-shard 1 --port 8081",
        ("serves the model at this address instead of `MODEL_ID`",),
        ("publishes no port", "AIP_HTTP_PORT"),
    ),
    Case(
        "cloud_run",
        'gcloud beta run deploy $NAME --image=$URI --args="--model-id=o/m,--quantize=awq"'
        " --set-env-vars=HF_HUB_ENABLE_HF_TRANSFER=1 --port=8081 --cpu=8 --memory=32Gi --gpu=1",
        "HF_HUB_ENABLE_HF_TRANSFER=1 tgi serve o/m --quantize awq --port 8081",
        ("rejects an option on this machine: `--quantize awq`", "`--cpu`, `--memory`"),
        ("over all visible devices",),
    ),
    Case(
        "a_variable_of_make",
        f"docker run -p 8080:80 -v $(PWD)/data:/data {NAME}:$(TAG) --model-id $(MODEL)",
        "HF_HOME=${PWD}/data tgi serve ${MODEL} --port 8080",
        ("The make variables `$(PWD)`, `$(TAG)`, `$(MODEL)`",),
    ),
    Case(
        "substitutions",
        f'{RUN} -v "$(pwd)/m":/models -e HF_TOKEN=`cat t` {IMAGE} --model-id /models/x'
        " --max-input-length $((n / 2)) --revision ${R:?set R} --dtype ${D:-float16}",
        'HF_TOKEN=`cat t` tgi serve "$(pwd)/m/x" --revision ${R:?set R} --dtype ${D:-float16}'
        " --max-input-tokens $((n / 2)) --port 8080",
    ),
    Case(
        "a_dollar_sign_in_quotes",
        f"""{RUN} {IMAGE} --model-id o/m --api-key 'pa$$word' --otlp-service-name "a \\$b" """,
        "tgi serve o/m --port 8080 --api-key 'pa$$word' --otlp-service-name 'a $b'",
    ),
    Case(
        "quotes_of_every_kind",
        f"""{RUN} -e A=$'t\\tb' {IMAGE} --model-id "o/$m's" --api-key 'a'"b c"\\ d""",
        """A='t\tb' tgi serve "o/$m's" --port 8080 --api-key 'ab c d'""",
    ),
    Case(
        "devices_as_a_number",
        f"docker run --gpus 2 -p 8080:80 {IMAGE} --model-id o/m",
        "CUDA_VISIBLE_DEVICES=0,1 tgi serve o/m --num-shard 2 --port 8080",
    ),
    Case(
        "devices_within_devices",
        f"docker run --gpus 'device=3,5' -e CUDA_VISIBLE_DEVICES=1 -p 8080:80 {IMAGE}"
        " --model-id o/m",
        "CUDA_VISIBLE_DEVICES=5 tgi serve o/m --port 8080",
    ),
    Case(
        "devices_in_a_variable_of_the_container",
        f"docker run --runtime nvidia -e NVIDIA_VISIBLE_DEVICES=1 -p 8080:80"
        f" {IMAGE} --model-id o/m",
        "CUDA_VISIBLE_DEVICES=1 tgi serve o/m --port 8080",
    ),
    Case(
        "devices_and_capabilities",
        f"""docker run --gpus '"device=4","capabilities=compute,utility"' -p 81:80 \\
            {IMAGE} --model-id o/m""",
        "CUDA_VISIBLE_DEVICES=4 tgi serve o/m --port 81",
        ("Port 81 is below 1024",),
    ),
    Case(
        "a_launcher_as_the_entry_point",
        f"docker run -p 8080:80 --entrypoint text-generation-launcher {IMAGE} --model-id o/m",
        "tgi serve o/m --port 8080",
    ),
    Case(
        "a_shell_as_the_entry_point",
        f"docker run -p 8080:3001 -e M=o/m --entrypoint /bin/bash {IMAGE} -c 'sleep 3;"
        " text-generation-launcher --model-id $M --port 3001'",
        "M=o/m tgi serve o/m --port 8080",
        ("Commands of the script were left out: `sleep 3`",),
    ),
    Case(
        "a_shell_with_variables_of_the_host",
        f"docker run -p 8080:80 -e M=inner --entrypoint sh {IMAGE} -c"
        ' "text-generation-launcher --model-id $M --revision \\$M"',
        'M=inner tgi serve "$M" --revision inner --port 8080',
    ),
    Case(
        "a_shell_without_a_script",
        f"docker run -it --entrypoint /bin/bash {IMAGE}",
        None,
        ("the container runs `/bin/bash` instead of the launcher",),
    ),
    Case(
        "another_image",
        "docker run -p 80:80 nginx:latest",
        None,
        ("the image `nginx:latest` is not an image of TGI",),
    ),
    Case(
        "an_own_image_with_the_arguments_of_the_launcher",
        f"{RUN} registry.example/llm/server:7 --model-id o/m --max-total-tokens 99",
        "tgi serve o/m --max-total-tokens 99 --port 8080",
        ("The image `registry.example/llm/server:7` is not known",),
    ),
    Case(
        "the_host_network",
        f"docker run --network host -e PORT=8000 {IMAGE} --model-id o/m",
        "tgi serve o/m --port 8000",
    ),
    Case(
        "a_random_port",
        f"docker run -p 80 {IMAGE} --model-id o/m",
        "tgi serve o/m",
        ("selects the published port for 80",),
    ),
    Case(
        "both_names_of_one_option",
        f"{RUN} -e MAX_INPUT_TOKENS=7 {IMAGE} --model-id o/m --max-input-length 9",
        None,
        ("Both `max_input_tokens` (7) and `max_input_length` (9) are set",),
    ),
    Case(
        "options_that_no_backend_accepts",
        f"{RUN} {IMAGE} --model-id o/m --kv-cache-dtype fp8_e5m2 --num-shard 4096",
        "tgi serve o/m --kv-cache-dtype fp8_e5m2 --num-shard 4096 --port 8080",
        ("rejects an option on this machine: `--num-shard 4096`",),
    ),
]
