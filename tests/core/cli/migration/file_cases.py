"""Files other than shell scripts and Compose files, with the expected commands."""

from tests.core.cli.migration.cases import IMAGE, Case

NAME = "ghcr.io/huggingface/text-generation-inference"
GOOGLE = (
    "us-docker.pkg.dev/deeplearning-platform-release/gcr.io/huggingface-text-generation-inference"
    "-cu124.2-3.ubuntu2204.py311"
)
SERVER_OF_ONE_CONTAINER = """apiVersion: apps/v1
kind: Deployment
metadata: {name: llm}
spec:
  template:
    spec:
      containers:
"""

CASES = [
    Case(
        "a_deployment",
        """apiVersion: apps/v1
kind: Deployment
metadata: {name: llm}
spec:
  replicas: 2
  template:
    spec:
      containers:
        - name: server
          image: ghcr.io/huggingface/text-generation-inference:2.4.0
          args: ["--model-id", "o/m", "--num-shard", "1"]
          env:
            - name: HF_TOKEN
              valueFrom: {secretKeyRef: {name: app, key: hf.token}}
            - {name: MAX_CONCURRENT_REQUESTS, value: "99"}
          volumeMounts:
            - {name: shm, mountPath: /dev/shm}
            - {name: data, mountPath: /data}
          readinessProbe: {httpGet: {path: /health, port: 80}}
          resources: {limits: {nvidia.com/gpu: 1, memory: 9Gi}}
      volumes:
        - {name: shm, emptyDir: {medium: Memory}}
        - {name: data, persistentVolumeClaim: {claimName: cache}}
---
apiVersion: v1
kind: Service
metadata: {name: llm}
spec: {ports: [{port: 8080, targetPort: 80}]}
""",
        "HF_TOKEN=$HF_TOKEN tgi serve o/m --num-shard 1 --max-concurrent-requests 99 --port 80",
        (
            "# llm/server",
            r"kubectl get secret app -o jsonpath='{.data.hf\.token}' | base64 -d",
            "The models are on the volume `cache`",
            "Port 80 is below 1024",
            "not converted: `readinessProbe`, `resources.memory`, `replicas`",
        ),
        file="deployment.yaml",
    ),
    Case(
        "a_deployment_with_an_image_of_google",
        SERVER_OF_ONE_CONTAINER
        + f"""        - name: server
          image: {GOOGLE}
          env:
            - {{name: AIP_HTTP_PORT, value: '8000'}}
            - {{name: NUM_SHARD, value: '1'}}
            - {{name: CUDA_MEMORY_FRACTION, value: '0.93'}}
            - {{name: MODEL_ID, value: o/m}}
""",
        "tgi serve o/m --num-shard 1 --cuda-memory-fraction 0.93 --port 8000",
        (),
        ("AIP_HTTP_PORT",),
        file="gke.yaml",
    ),
    Case(
        "a_config_map",
        """apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {MODEL_ID: "o/m", PORT: "2080", HABANA_LOGS: /tmp/logs, HF_HOME: /tmp/hf, CUDA_GRAPHS: "0"}
---
"""
        + SERVER_OF_ONE_CONTAINER
        + f"""        - envFrom:
            - {{configMapRef: {{name: settings}}}}
            - {{secretRef: {{name: keys}}}}
          image: {NAME}:2.4.0-intel-cpu
          env: [{{name: REVISION, valueFrom: {{configMapKeyRef: {{name: settings, key: PORT}}}}}}]
""",
        "tgi serve o/m --revision 2080 --port 2080",
        (
            "The variables of the secret `keys` were not read",
            "`HF_HOME` is left out",
            "`HABANA_LOGS` has no effect",
        ),
        ("over all visible devices",),
        file="config.yaml",
    ),
    Case(
        "references_in_a_manifest",
        SERVER_OF_ONE_CONTAINER
        + f"""        - image: {IMAGE}
          command: [text-generation-launcher]
          args: [--model-id, $(ORG)/m, --port=$(P), --api-key, $$(ORG), --revision, $(NONE)]
          env: [{{name: ORG, value: o}}, {{name: P, value: "8$(ORG)"}},
                {{name: NODE, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}]
""",
        None,
        ("llm/container: error: invalid value '8o' for '--port'",),
        file="references.yaml",
    ),
    Case(
        "a_shell_in_a_manifest",
        SERVER_OF_ONE_CONTAINER
        + f"""        - image: {IMAGE}
          command: ["/bin/sh", "-c"]
          args: ["text-generation-launcher --model-id $MODEL --num-shard $(N) --port 8001"]
          env: [{{name: MODEL_ID, value: x}}, {{name: N, value: "4"}}, {{name: MODEL, value: o/m}}]
          resources: {{limits: {{nvidia.com/gpu: 4}}}}
          volumeMounts: [{{name: d, mountPath: /data}}]
      volumes: [{{name: d, hostPath: {{path: /srv/d}}}}]
""",
        "N=4 HF_HOME=/srv/d tgi serve o/m --num-shard 4 --port 8001",
        file="shell.yaml",
    ),
    Case(
        "a_list_of_manifests",
        f"""apiVersion: v1
kind: List
items:
  - apiVersion: v1
    kind: Pod
    metadata: {{name: one}}
    spec:
      containers:
        - {{name: web, image: nginx}}
        - {{name: a, image: {IMAGE}, args: [--model-id, o/a, --port, "8001"]}}
        - {{name: b, image: {IMAGE}, args: [--model-id, o/b, --port, "8002"],
            resources: {{limits: {{nvidia.com/gpu: "2"}}}}}}
""",
        "tgi serve o/a --port 8001\ntgi serve o/b --num-shard 2 --port 8002",
        ("# one/a", "# one/b"),
        file="list.json.yaml",
    ),
    Case(
        "a_job_of_kserve",
        f"""apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {{name: isvc}}
spec:
  predictor:
    containers:
      - name: kserve-container
        image: {IMAGE}
        args: [text-generation-launcher, --model-id=o/m, --port=8080, --json-output]
""",
        "tgi serve o/m --port 8080 --json-output",
        ("# isvc/kserve-container",),
        file="kserve.yaml",
    ),
    Case(
        "manifests_without_tgi",
        "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: nginx}]}\n",
        None,
        ("no container in the Kubernetes manifest has an image of TGI",),
        file="pod.yaml",
    ),
    Case(
        "values_of_a_helm_chart",
        f"image: {NAME}:3.0.2-rocm\nmodel: o/m\ngpus: 1\n",
        None,
        ("neither a Compose file nor a Kubernetes manifest", "helm template"),
        file="values.yaml",
    ),
    Case(
        "a_template_of_helm",
        "spec:\n  {{- with .Values.x }}\n  a: {{ . }}\n",
        None,
        ("is not valid YAML", "helm template"),
        file="deployment.yaml",
    ),
    Case(
        "skypilot",
        "resources: {ports: 8080, accelerators: A100:1}\nenvs: {MODEL_ID: o/m, TOKEN: null}\n"
        f"run: |\n  nvidia-smi\n  docker run --gpus all -p 8080:80 -v ~/data:/data {NAME}"
        " --model-id $MODEL_ID\n",
        "export MODEL_ID=o/m\nHF_HOME=~/data tgi serve $MODEL_ID --port 8080",
        ("Other commands are not converted: `nvidia-smi`",),
        ("Set `$MODEL_ID`",),
        file="sky.yaml",
    ),
    Case(
        "dstack",
        f"type: service\nimage: {NAME}:latest\nenv: [HF_TOKEN, MODEL_ID=o/m]\n"
        "commands: [text-generation-launcher --port 8000 --trust-remote-code]\nport: 8000\n",
        "HF_TOKEN=$HF_TOKEN tgi serve o/m --trust-remote-code --port 8000",
        file="service.dstack.yml",
    ),
    Case(
        "a_systemd_unit",
        '[Unit]\nAfter=docker.service\n[Service]\nEnvironment=MODEL_ID=o/m "A=b c"\n'
        "EnvironmentFile=/etc/tgi.env\nExecStartPre=-/usr/bin/docker rm -f tgi\n"
        "ExecStart=/usr/bin/docker run --rm --gpus all -p 8080:80 -v /srv/hf:/data \\\n"
        f"  -e HF_TOKEN=${{HF_TOKEN}} {IMAGE} --model-id ${{MODEL_ID}} --api-key a$$b\n"
        "Restart=always\n",
        "export MODEL_ID=o/m\nHF_TOKEN=${HF_TOKEN} HF_HOME=/srv/hf tgi serve ${MODEL_ID}"
        " --port 8080 --api-key 'a$b'",
        ("The variables in `/etc/tgi.env` were not read", "`Restart=always` stays in the unit"),
        file="tgi.service",
    ),
    Case(
        "a_unit_without_a_start",
        "[Unit]\nDescription=x\n",
        None,
        ("the unit has no `ExecStart`",),
        file="x.service",
    ),
    Case(
        "a_makefile",
        "IMAGE ?= ghcr.io/huggingface/text-generation-inference\nTAG := 3.3\n"
        'MODEL = o/m # the model\nNAME = x"y\n\nrun: build\n\t@echo hi\n'
        "\t-docker run -p 8080:80 -v $(PWD)/data:/data $(IMAGE):$(TAG) --model-id $(MODEL) \\\n"
        "\t  --api-key $$KEY --otlp-service-name ${NAME}\n\nstop:\n\tdocker rm -f tgi\n",
        'IMAGE=${IMAGE:-"ghcr.io/huggingface/text-generation-inference"}\nTAG="3.3"\nMODEL="o/m"\n'
        'NAME="x\\"y"\n'
        "HF_HOME=${PWD}/data tgi serve ${MODEL} --port 8080 --api-key $KEY"
        " --otlp-service-name ${NAME}",
        ("# run",),
        file="Makefile",
    ),
    Case(
        "a_makefile_without_tgi",
        "all:\n\techo docker\n",
        None,
        ("nothing in the file `rules.mk` starts TGI",),
        file="rules.mk",
    ),
    Case(
        "a_dockerfile_with_a_literal_variable",
        f'FROM {NAME}:2.2.0\nENV MODEL_ID=o/m\nCMD ["--model-id", "$MODEL_ID"]\n'
        'ENTRYPOINT ["tgi-entrypoint.sh"]\n',
        "tgi serve '$MODEL_ID'",
        ("TGI 3 received the text `$MODEL_ID` as the model",),
        file="serve.Dockerfile",
    ),
    Case(
        "a_dockerfile_with_a_shell",
        "ARG TAG=3.3.5\n# comment\nFROM alpine AS first\n"
        "FROM ghcr.io/huggingface/text-generation-inference:$TAG\n"
        'ENV ORG=o PORT=8001 \\\n    REVISION="a b"\nENV MODEL ${ORG}/m\n'
        "ENTRYPOINT text-generation-launcher --model-id $MODEL --json-output\n",
        "ORG=o tgi serve o/m --revision 'a b' --port 8001 --json-output",
        file="Dockerfile",
    ),
    Case(
        "sagemaker_in_python",
        'import json\nhub = {\n    "HF_MODEL_ID": "o/m",\n    "SM_NUM_GPUS": json.dumps(1),\n'
        '    "MAX_TOTAL_TOKENS": str(4096),\n    "HF_TOKEN": get_token(),\n'
        '    "TOP": limit(1, 2),\n'
        '    "HF_MODEL_QUANTIZE": "bitsandbytes",\n}\nmodel = HuggingFaceModel(env=hub)\n',
        "tgi serve o/m --quantize bitsandbytes --num-shard 1 --max-total-tokens 4096 --port 8080",
        ("`tgi sagemaker`", "The values of `HF_TOKEN`, `TOP` are computed by the program"),
        file="deploy.py",
    ),
    Case(
        "another_python_program",
        "print(1)\n",
        None,
        ("no dictionary with the variables of a SageMaker model", "`tgi sagemaker`"),
        file="main.py",
    ),
    Case(
        "a_python_program_with_an_error",
        "def (:\n",
        None,
        ("the Python program cannot be parsed",),
        file="main.py",
    ),
    Case(
        "terraform",
        'module "m" {\n  hf_model_id = "o/m"\n}\n',
        None,
        ("tgi migrate does not read Terraform files", "`tgi sagemaker`"),
        file="main.tf",
    ),
    Case(
        "a_script_in_a_file",
        "#!/bin/sh\nexport PORT=8001\nexec text-generation-launcher --model-id o/m\n",
        "tgi serve o/m --port 8001",
        file="start.sh",
    ),
]
