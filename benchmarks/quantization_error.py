"""Measure the error of every format of quantized checkpoints: the demo model, written in each
format and read by the loader, compared with the unquantized model.

    python benchmarks/quantization_error.py [--conversations 400] [--kinds gptq awq ...]

All models are computed in float32 with dequantized weights, so that the differences are those of
the formats. The writers round the weights to the nearest codes. `tgi quantize` writes the
checkpoints of GPTQ with calibration.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.backends.format_encoders import ENCODERS, quantized_checkpoint
from tests.quantized_checkpoints import RECIPES, write_quantized
from tgi.architectures import ModelSpec, load_spec
from tgi.backend import Limits
from tgi.checkpoints.checkpoint import read_headers
from tgi.cli import main as tgi_main
from tgi.demo import demo_model_path
from tgi.text import Tokenizer
from tgi_torch.attention.paged import AttentionMetadata
from tgi_torch.model.protocols import Model
from tgi_torch.ops import REFERENCE
from tgi_torch.runner.worker import decoder_loader
from tools.train_demo.chat_format import segments
from tools.train_demo.text.generator import conversations

_SEED = 2026  # differs from the seed of the training
_MAX_TOKENS, _BLOCK_TOKENS = 1024, 32
_NUM_BLOCKS = _MAX_TOKENS // _BLOCK_TOKENS
_LIMITS = Limits(max_total_tokens=_MAX_TOKENS, max_sequences=1, max_step_tokens=_MAX_TOKENS)
_COMMANDS: Mapping[str, tuple[str, ...]] = {
    "tgi quantize --groupsize 32": ("--groupsize", "32"),
    "tgi quantize --groupsize 32 --asym": ("--groupsize", "32", "--asym"),
    "tgi quantize --groupsize 32 --act-order": ("--groupsize", "32", "--act-order"),
    "tgi quantize --groupsize 32 --bits 3": ("--groupsize", "32", "--bits", "3"),
    "tgi quantize --bits 8": ("--bits", "8"),
}


@dataclass
class Score:
    """Sums over the tokens of the assistant's messages."""

    num_tokens: int = 0
    loss: float = 0.0
    squared_error: float = 0.0
    squared_size: float = 0.0
    same_choice: int = 0

    def add(self, logits: Tensor, exact: Tensor, targets: Tensor) -> None:
        """Add tokens int64 [T], with the logits float32 [T, vocab] of both models."""
        self.num_tokens += len(targets)
        self.loss += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
        self.squared_error += (logits - exact).square().sum().item()
        self.squared_size += (exact - exact.mean(-1, keepdim=True)).square().sum().item()
        self.same_choice += int((logits.argmax(-1) == exact.argmax(-1)).sum())

    def cells(self) -> str:
        """The cells of the table."""
        error = 100 * math.sqrt(self.squared_error / self.squared_size)
        same = 100 * self.same_choice / self.num_tokens
        return f"{math.exp(self.loss / self.num_tokens):.4f} | {error:.2f} % | {same:.2f} %"


def writers() -> Mapping[str, Callable[[Path, Path], Path]]:
    """Return the kinds of checkpoints. A function writes the model in the first folder to the
    second folder, and returns the folder of the checkpoint.
    """

    def by_recipe(name: str) -> Callable[[Path, Path], Path]:
        return lambda source, folder: write_quantized(source, folder, name)[0]

    def by_encoder(name: str) -> Callable[[Path, Path], Path]:
        def write(source: Path, folder: Path) -> Path:
            quantized_checkpoint(source, folder / "quantized", name)
            return folder / "quantized"

        return write

    def by_command(words: tuple[str, ...]) -> Callable[[Path, Path], Path]:
        def write(source: Path, folder: Path) -> Path:
            with redirect_stdout(sys.stderr):
                code = tgi_main(["quantize", str(source), str(folder / "quantized"), *words])
            if code:
                raise SystemExit("tgi quantize failed")
            return folder / "quantized"

        return write

    return {
        **{name: by_command(words) for name, words in _COMMANDS.items()},
        **{name: by_recipe(name) for name in RECIPES},
        **{name: by_encoder(name) for name in ENCODERS},
    }


def main() -> None:
    """Measure the kinds and print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--conversations", type=int, default=400)
    parser.add_argument("--kinds", nargs="*", choices=list(writers()), default=list(writers()))
    arguments = parser.parse_args()
    source = demo_model_path(print)
    texts = _conversations(Tokenizer.load(source), arguments.conversations)
    exact = _logits(source, texts)
    print("| checkpoint | layers in the file | perplexity | error of the logits | same token |")
    print("|---|--:|--:|--:|--:|")
    _print_row("bfloat16", source, texts, exact)
    for kind in arguments.kinds:
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = writers()[kind](source, Path(folder))
            except (ValueError, IndexError) as error:
                print(f"{kind} cannot store the demo model: {error}", file=sys.stderr)
                continue
            _print_row(kind, path, texts, exact)


def _conversations(tokenizer: Tokenizer, count: int) -> list[tuple[Tensor, Tensor]]:
    """Return the tokens of each conversation, int64 [T], and whether each token belongs to a
    message of the assistant, bool [T].
    """
    texts = []
    for conversation in conversations(_SEED, 0, count):
        parts = [
            (tokenizer.encode(text, add_special_tokens=False).ids, is_target)
            for text, is_target in segments(conversation)
        ]
        tokens = [token for ids, _ in parts for token in ids][:_MAX_TOKENS]
        flags = [is_target for ids, is_target in parts for _ in ids][:_MAX_TOKENS]
        texts.append((torch.tensor(tokens), torch.tensor(flags)))
    return texts


def _print_row(
    kind: str, path: Path, texts: list[tuple[Tensor, Tensor]], exact: list[Tensor]
) -> None:
    score = Score()
    for logits, right, (tokens, flags) in zip(_logits(path, texts), exact, texts, strict=True):
        score.add(logits, right, tokens[1:][flags[1:]])
    print(f"| {kind} | {_layer_bytes(path) / 1e6:.2f} MB | {score.cells()} |", flush=True)


def _layer_bytes(path: Path) -> int:
    """Return the bytes of all tensors in the layers."""
    tensors = read_headers(path)
    return sum(tensors.num_bytes(name) for name in tensors.shapes if ".layers." in name)


@torch.inference_mode()
def _logits(path: Path, texts: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Return the logits that predict the assistant's tokens of each text, float32 [T, vocab]."""
    spec = load_spec(path)
    assert isinstance(spec, ModelSpec)
    load = decoder_loader(REFERENCE, torch.device("cpu"))
    loaded = load(spec, torch.float32, path, lambda done, total: None)
    model = loaded.with_cache(_NUM_BLOCKS, _BLOCK_TOKENS, _LIMITS)
    return [_forward(model, tokens[:-1])[flags[1:]] for tokens, flags in texts]


def _forward(model: Model, tokens: Tensor) -> Tensor:
    positions = torch.arange(len(tokens))
    metadata = AttentionMetadata(
        positions=positions,
        slot_mapping=positions,
        block_tables=torch.arange(_NUM_BLOCKS, dtype=torch.int32)[None],
        cu_seqlens_q=torch.tensor([0, len(tokens)], dtype=torch.int32),
        seq_lens=torch.tensor([len(tokens)], dtype=torch.int32),
        query_lens=(len(tokens),),
        context_lens=(len(tokens),),
    )
    return model.logits(model.forward(tokens, metadata))


if __name__ == "__main__":
    main()
