"""Shell texts with more than one `docker run` command, with the expected commands."""

from tests.core.cli.migration.cases import DOCKER, IMAGE, Case

LAUNCHER = "text-generation-launcher --model-id o/m"
NAME = "ghcr.io/huggingface/text-generation-inference"

CASES = [
    Case(
        "commented_lines_after_the_command",
        "text-generation-launcher \\\n  --model-id o/m \\\n  --quantize bitsandbytes # optional\n"
        "  # --shard-uds-path /scratch \\\n  # --huggingface-hub-cache /d",
        "tgi serve o/m --quantize bitsandbytes",
    ),
    Case(
        "exec",
        'exec text-generation-launcher --model-id "${MODEL_ID}" --port 9100',
        'tgi serve "${MODEL_ID}" --port 9100',
        ("Set `$MODEL_ID` before you run the command",),
    ),
    Case(
        "redirections_and_background",
        "nohup text-generation-launcher --model-id /m/x --port 8001 --hostname 127.0.0.1"
        " > tgi.log 2>&1 &",
        "tgi serve /m/x --hostname 127.0.0.1 --port 8001",
        ("The text `> tgi.log 2>&1 &` after the command was left out",),
    ),
    Case(
        "words_after_a_redirection",
        f"{LAUNCHER} 2> errors --port 8001 >> log --json-output",
        "tgi serve o/m --port 8001 --json-output",
        ("`2> errors >> log`",),
    ),
    Case(
        "a_pipeline",
        f"{LAUNCHER} --port 8001 2>&1 | tee log",
        "tgi serve o/m --port 8001",
        ("`2>&1 | tee log`",),
        ("Other commands",),
    ),
    Case(
        "a_slurm_script",
        "#!/bin/bash\n#SBATCH --gres=gpu:1\nset -x\nmodel=$1\nlimit=3072\nexport HF_TOKEN=t\n"
        "text-generation-launcher --port 8001 --max-input-length ${limit} \\\n"
        "  --max-batch-prefill-tokens ${limit} --model-id ${model}\n",
        "model=$1\nlimit=3072\nHF_TOKEN=t tgi serve ${model} --max-input-tokens ${limit}"
        " --max-batch-prefill-tokens ${limit} --port 8001",
        ("uses arguments of the script: `$1`", "Other commands are not converted: `set -x`"),
        file="job.sbatch",
    ),
    Case(
        "slurm_with_a_container",
        "srun --container-image='ghcr.io#huggingface/text-generation-inference'"
        ' --container-env=HF_TOKEN,PORT --container-mounts="/scratch:/data" --gpus=8'
        " /usr/local/bin/text-generation-launcher --model-id o/m",
        'HF_TOKEN=$HF_TOKEN HF_HOME=/scratch tgi serve o/m --num-shard 8 --port "$PORT"',
        ("the 8 visible devices", "Write `srun` before the command"),
    ),
    Case(
        "slurm_without_a_container",
        "srun -n 1 --gres=gpu:2 text-generation-launcher --model-id o/m --num-shard 2",
        "tgi serve o/m --num-shard 2",
    ),
    Case(
        "apptainer",
        "apptainer run --nv --bind /proj/m:/data /img/text-generation-inference_2.3.0.sif"
        " --model-id /data/snapshots/abc --port 8123 --sharded false",
        "HF_HOME=/proj/m tgi serve /proj/m/snapshots/abc --sharded false --port 8123",
    ),
    Case(
        "apptainer_with_an_old_image",
        "singularity exec --nv -B /proj/m:/data --env HF_TOKEN=t"
        " tgi/text-generation-inference_1.4.sif"
        " text-generation-launcher --model-id o/m -p 8123",
        "HF_TOKEN=t tgi serve o/m --huggingface-hub-cache /proj/m --port 8123",
    ),
    Case(
        "the_lines_of_the_readme",
        "model=o/m\nvolume=$PWD/data # share the downloaded weights\n\n"
        f"{DOCKER} -v $volume:/data \\\n    {IMAGE} --model-id $model",
        "model=o/m\nvolume=$PWD/data\nHF_HOME=$volume tgi serve $model --port 8080",
        (),
        ("Set `$model`", "Other commands"),
    ),
    Case(
        "assignments_that_need_assignments",
        'base=/srv\nunused=1\ndata="$base/my data"\nm=a\nm=$m/b\n'
        f'{DOCKER} -v "$data":/data {IMAGE} --model-id $m',
        'base=/srv\ndata="$base/my data"\nm=a\nm=$m/b\nHF_HOME=$data tgi serve $m --port 8080',
    ),
    Case(
        "an_assignment_in_a_condition",
        f'if [ -z "$M" ]; then M=o/m; fi\n{DOCKER} {IMAGE} --model-id "$M"',
        'if [ -z "$M" ]; then M=o/m; fi\ntgi serve "$M" --port 8080',
    ),
    Case(
        "a_start_in_a_loop",
        "for gpu in 0 1; do\n  docker run -d --gpus device=$gpu -p 808$gpu:80"
        f" {IMAGE} --model-id o/m\ndone",
        'CUDA_VISIBLE_DEVICES=$gpu tgi serve o/m --port "808$gpu"',
        ("inside a `for` block",),
    ),
    Case(
        "a_start_in_a_function",
        f'serve() {{\n  {LAUNCHER} "$@"\n}}\nserve --port 8001',
        'tgi serve o/m "$@"',
        ("inside a `function` block", "`$@` is passed on unchanged"),
    ),
    Case(
        "a_lost_backslash",
        f"{DOCKER} {IMAGE} \\\n  --model-id o/m\n  --trust-remote-code",
        "tgi serve o/m --port 8080",
        ("Line 3 (`--trust-remote-code`) is not part of the command",),
    ),
    Case(
        "commands_before_and_after",
        f"set -x; export A=b; cd /srv && docker pull {IMAGE} && docker rm -f tgi; sudo -E docker"
        f" --context c run -p 8080:80 {IMAGE} --model-id o/m; docker logs -f tgi",
        "tgi serve o/m --port 8080",
        (
            f"Other commands are not converted: `set -x`, `cd /srv`, `docker pull {IMAGE}`,"
            " `docker rm -f tgi`, `docker logs -f tgi`",
        ),
    ),
    Case(
        "another_container_in_the_script",
        f"docker run -d nginx\ndocker run -p 8080:80 {IMAGE} --model-id o/m",
        "tgi serve o/m --port 8080",
        ("`docker run -d nginx`",),
    ),
    Case(
        "two_starts",
        f"docker run -p 1080:80 {IMAGE} --model-id o/a &\n"
        f"docker run -p 1081:80 {IMAGE} --model-id o/b",
        "tgi serve o/a --port 1080\ntgi serve o/b --port 1081",
    ),
    Case(
        "wrappers_with_arguments",
        "sudo -u me env -u X A_B=c nice -n 5 timeout 3h numactl --membind 0"
        " text-generation-launcher --model-id o/m",
        "A_B=c tgi serve o/m",
    ),
    Case(
        "a_script_in_quotes",
        "bash -c 'umask 022 && MODEL_ID=o/q text-generation-launcher --port 8001'",
        "tgi serve o/q --port 8001",
    ),
    Case(
        "arguments_in_a_variable",
        f"ARGS='--max-total-tokens 9'\n{DOCKER} {IMAGE} --model-id o/m $ARGS",
        "ARGS='--max-total-tokens 9'\ntgi serve o/m --port 8080 $ARGS",
        ("`$ARGS` is passed on unchanged",),
    ),
    Case(
        "lines_of_windows",
        f"docker run -p 8080:80 \\\r\n  {IMAGE} \\\r\n  --model-id o/m\r\n",
        "tgi serve o/m --port 8080",
    ),
    Case(
        "a_prompt",
        f"$ model=o/m\n$ {DOCKER} {IMAGE} --model-id $model",
        "model=o/m\ntgi serve $model --port 8080",
    ),
    Case(
        "a_model_that_is_split_over_no_devices",
        f"docker run -p 8080:80 {IMAGE} --model-id o/m --sharded true",
        "tgi serve o/m --sharded true --port 8080",
        ("`--sharded true` also requires `--num-shard`",),
    ),
    Case(
        "a_here_document",
        f"cat > notes <<EOF\ndocker run nginx\nEOF\n{LAUNCHER}\n",
        "tgi serve o/m",
    ),
    Case(
        "sagemakers_variables_and_the_launcher",
        "HF_MODEL_ID=o/m SM_NUM_GPUS=1 text-generation-launcher",
        "tgi serve o/m --num-shard 1",
        ("The launcher of TGI 3 does not read `HF_MODEL_ID`",),
        ("is not a variable of TGI",),
    ),
    Case(
        "the_port_of_the_platform",
        f"AIP_HTTP_PORT=8181 {LAUNCHER} --port 9000",
        "tgi serve o/m --port 8181",
        (),
        ("AIP_HTTP_PORT",),
    ),
    Case(
        "the_devices_of_the_process",
        f"CUDA_VISIBLE_DEVICES=1,3 {LAUNCHER}",
        "CUDA_VISIBLE_DEVICES=1,3 tgi serve o/m --num-shard 2",
        ("the 2 visible devices",),
    ),
    Case(
        "flags_of_older_versions",
        f"{LAUNCHER} --disable-usage-stats --enable-cuda-graphs",
        "tgi serve o/m",
        ("`--disable-usage-stats` has no effect", "`--enable-cuda-graphs` has no effect"),
    ),
    Case(
        "the_version_of_an_image_in_a_variable",
        f"tag=2.0.4\nimage={NAME}:$tag\ndocker run -p 8080:80 -v /d:/data $image --model-id o/m",
        "tgi serve o/m --huggingface-hub-cache /d --port 8080",
        (f"replaces the image `{NAME}:2.0.4`",),
        ("is not known", "version of the image"),
    ),
    Case(
        "an_image_that_a_test_selects",
        f'image={NAME}:3.3.5\n[ -n "$R" ] && image={NAME}:3.3.5-rocm\n'
        "docker run -p 8080:80 $image --model-id o/m",
        f'image={NAME}:3.3.5\n[ -n "$R" ] && image={NAME}:3.3.5-rocm\ntgi serve o/m --port 8080',
        ("The image `$image` is not known",),
    ),
    Case(
        "an_option_after_a_test",
        f'args=(--json-output)\n[ -n "$Q" ] && args+=(--port "$Q")\n{LAUNCHER} "${{args[@]}}"',
        'args=(--json-output)\n[ -n "$Q" ] && args+=(--port "$Q")\ntgi serve o/m "${args[@]}"',
    ),
    Case(
        "options_from_a_loop",
        'args=--json-output\nfor o in a b; do args="$args --cors-allow-origin $o"; done\n'
        f"{LAUNCHER} $args",
        'args=--json-output\nfor o in a b; do args="$args --cors-allow-origin $o"; done\n'
        "tgi serve o/m $args",
    ),
    Case(
        "container_flags_in_a_variable",
        f"flags=--rm\ndocker run $flags -p 8080:80 {IMAGE} --model-id o/m",
        "tgi serve o/m --port 8080",
        ("`$flags` before the image is not converted",),
    ),
    Case(
        "programs_before_the_command",
        f"nice -n 5 env A=b timeout 60 {LAUNCHER}",
        "A=b tgi serve o/m",
        (
            "Left out before the command: `nice -n 5`",
            "Left out before the command: `timeout 60`",
        ),
        ("`env",),
    ),
    Case(
        "a_compose_command",
        "cd x && docker compose up -d",
        None,
        ("Give the name of the Compose file to tgi migrate",),
    ),
    Case(
        "a_script_without_a_start",
        "set -e\necho hello\n",
        None,
        ("no command in the text starts TGI",),
    ),
    Case(
        "an_open_quote",
        f"{LAUNCHER} --api-key 'x",
        None,
        ("the command cannot be parsed: No closing quotation",),
    ),
    Case(
        "an_open_block",
        f"if true; then\n{LAUNCHER}\n",
        None,
        ("is not valid shell text",),
    ),
]
