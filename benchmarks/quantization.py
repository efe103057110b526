"""Measure the accuracy of quantized weights: the demo model in every precision of the CPU backend,
compared with float32.

    python benchmarks/quantization.py [--conversations 400] [--prompts 206] [--kernels native|torch]
    python benchmarks/quantization.py --model FOLDER [--windows 6]

Perplexity is computed over the answers in conversations from the generator of the training text,
with another seed than in training. Greedy answers are generated for the held-out prompts with which
the demo model is scored.

With `--model`, only the perplexity of another model is measured, over windows of 1,000 tokens from
the documents of this repository.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from tgi.architectures import ModelSpec, load_spec
from tgi.backend import Limits
from tgi.demo import demo_model_path
from tgi.text import Tokenizer
from tgi_cpu.native import load_library
from tgi_cpu.native_decoder import native_loader
from tgi_torch.attention.paged import AttentionMetadata
from tgi_torch.memory import weights_bytes
from tgi_torch.model.protocols import LoadModel, Model
from tgi_torch.ops import REFERENCE
from tgi_torch.runner.device import decoder_loader
from tgi_torch.weights.weight_formats import QUANTIZATIONS
from tools.train_demo.chat_format import segments
from tools.train_demo.evaluate import render
from tools.train_demo.held_out import prompts
from tools.train_demo.text.generator import conversations

_PRECISIONS = (
    "float32",
    "bfloat16",
    "int8",
    "int4",
    "bitsandbytes-nf4",
    "bitsandbytes-fp4",
    "fp8",
)
_WINDOW_TOKENS = 1000
_SEED = 2026  # Differs from the seed of the training.
_LIMITS = Limits(max_total_tokens=1024, max_sequences=1, max_step_tokens=1024)
_BLOCK_TOKENS = 32
_NUM_BLOCKS = _LIMITS.max_total_tokens // _BLOCK_TOKENS
_MAX_NEW_TOKENS = 96


@dataclass
class Score:
    """Sums over the answer tokens of the conversations."""

    num_tokens: int = 0
    loss: float = 0.0
    squared_error: float = 0.0  # Of the logits, compared with float32.
    squared_size: float = 0.0  # Of the float32 logits minus their mean.
    same_choice: int = 0  # Positions at which the most likely token is that of float32.
    responses: list[list[int]] = field(default_factory=list)

    def add(self, logits: Tensor, exact: Tensor, targets: Tensor) -> None:
        """Add the answer tokens `targets`, int64 (T). `logits` and `exact` are the logits from
        which they are predicted, float32 (T, vocab), in this precision and in float32.
        """
        self.num_tokens += len(targets)
        self.loss += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
        self.squared_error += (logits - exact).square().sum().item()
        self.squared_size += (exact - exact.mean(-1, keepdim=True)).square().sum().item()
        self.same_choice += int((logits.argmax(-1) == exact.argmax(-1)).sum())


def main() -> None:
    """Measure all precisions and print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--conversations", type=int, default=400)
    parser.add_argument("--prompts", type=int, default=len(prompts()))
    parser.add_argument(
        "--model", type=Path, help="the folder of a model, instead of the demo model"
    )
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument("--kernels", choices=["native", "torch"], default="native")
    arguments = parser.parse_args()
    if arguments.model is not None:
        _measure_model(arguments.model, arguments.windows, arguments.kernels)
        return
    path = demo_model_path(print)
    spec, tokenizer = load_spec(path), Tokenizer.load(path)
    assert isinstance(spec, ModelSpec)
    with torch.inference_mode():
        models = {name: _load(spec, path, name, arguments.kernels) for name in _PRECISIONS}
        scores = {name: Score() for name in _PRECISIONS}
        for tokens, is_target in _conversations(tokenizer, arguments.conversations):
            logits = {name: _forward(model, tokens[:-1], 0) for name, model in models.items()}
            chosen, targets = is_target[1:], tokens[1:]
            for name, score in scores.items():
                score.add(logits[name][chosen], logits["float32"][chosen], targets[chosen])
        for prompt in prompts()[: arguments.prompts]:
            ids = tokenizer.encode(render(prompt), add_special_tokens=False).ids
            for name, model in models.items():
                scores[name].responses.append(_greedy(model, ids, tokenizer.eos_token_ids))
    _print_table(spec, scores)


def _measure_model(path: Path, num_windows: int, kernels: str) -> None:
    """Print the perplexity of each precision but float32, and its ratio to that of bfloat16."""
    spec, tokenizer = load_spec(path), Tokenizer.load(path)
    assert isinstance(spec, ModelSpec)
    documents = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))
    text = "\n".join(document.read_text(encoding="utf-8") for document in documents)
    ids = tokenizer.encode(text).ids[: num_windows * _WINDOW_TOKENS]
    print("| weights | size | perplexity | relative to bfloat16 |\n|---|--:|--:|--:|")
    usual = None
    for name in _PRECISIONS[1:]:
        model, loss = _load(spec, path, name, kernels), 0.0
        windows = torch.tensor(ids).split(_WINDOW_TOKENS)
        with torch.inference_mode():
            for window in windows:
                logits = _forward(model, window[:-1], 0)
                loss += torch.nn.functional.cross_entropy(
                    logits, window[1:], reduction="sum"
                ).item()
        perplexity = math.exp(loss / (len(ids) - len(windows)))
        usual = perplexity if usual is None else usual
        size = weights_bytes(spec, "bfloat16", QUANTIZATIONS.get(name)) / 1e6
        print(f"| {name} | {size:.1f} MB | {perplexity:.2f} | {perplexity / usual:.4f} |")


def _load(spec: ModelSpec, path: Path, precision: str, kernels: str) -> Model:
    quantization = QUANTIZATIONS.get(precision)
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    library = load_library()
    load: LoadModel = decoder_loader(REFERENCE, torch.device("cpu"), quantization)
    if kernels == "native" and precision != "float32":
        if library is None or not library.is_supported:
            sys.exit("The native kernels are not available here. Use `--kernels torch` instead.")
        load = native_loader(library, torch.get_num_threads(), quantization)
    return load(spec, dtype, path, lambda done, total: None).with_cache(
        _NUM_BLOCKS, _BLOCK_TOKENS, _LIMITS
    )


def _conversations(tokenizer: Tokenizer, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the tokens of each conversation, int64 (T), and whether each token belongs to an
    answer, bool (T).
    """
    for conversation in conversations(_SEED, 0, count):
        parts = [
            (tokenizer.encode(text, add_special_tokens=False).ids, is_target)
            for text, is_target in segments(conversation)
        ]
        tokens = [token for ids, _ in parts for token in ids]
        flags = [is_target for ids, is_target in parts for _ in ids]
        yield (
            torch.tensor(tokens[: _LIMITS.max_total_tokens]),
            torch.tensor(flags[: _LIMITS.max_total_tokens]),
        )


def _forward(model: Model, tokens: Tensor, start: int) -> Tensor:
    """Run the model on tokens at the positions from `start`. Returns logits, float32 (T, vocab)."""
    positions = torch.arange(start, start + len(tokens))
    metadata = AttentionMetadata(
        positions=positions,
        slot_mapping=positions,
        block_tables=torch.arange(_NUM_BLOCKS, dtype=torch.int32)[None],
        cu_seqlens_q=torch.tensor([0, len(tokens)], dtype=torch.int32),
        seq_lens=torch.tensor([start + len(tokens)], dtype=torch.int32),
        query_lens=(len(tokens),),
        context_lens=(start + len(tokens),),
    )
    return model.logits(model.forward(tokens, metadata).clone()).clone()


def _greedy(model: Model, ids: list[int], end_ids: tuple[int, ...]) -> list[int]:
    written: list[int] = []
    next_ids, start = ids, 0
    while len(written) < _MAX_NEW_TOKENS and not (written and written[-1] in end_ids):
        written.append(int(_forward(model, torch.tensor(next_ids), start)[-1].argmax()))
        next_ids, start = written[-1:], len(ids) + len(written) - 1
    return written


def _print_table(spec: ModelSpec, scores: dict[str, Score]) -> None:
    exact, usual = scores["float32"], scores["bfloat16"]
    print(
        "| weights | size | perplexity | error of the logits | same most likely token | same greedy"
        " answer as bfloat16 |"
    )
    print("|---|--:|--:|--:|--:|--:|")
    for name, score in scores.items():
        dtype = name if name in ("float32", "bfloat16") else "bfloat16"
        size = weights_bytes(spec, dtype, QUANTIZATIONS.get(name)) / 1e6
        error = 100 * math.sqrt(score.squared_error / score.squared_size)
        same = sum(
            mine == theirs for mine, theirs in zip(score.responses, usual.responses, strict=True)
        )
        print(
            f"| {name} | {size:.1f} MB | {math.exp(score.loss / score.num_tokens):.4f} |"
            f" {error:.2f} % | {100 * score.same_choice / exact.num_tokens:.2f} % | {same} of"
            f" {len(usual.responses)} |"
        )
    print(
        f"\nMeasured over {exact.num_tokens} answer tokens. The error is the root mean square"
        " error, relative to the standard deviation of the float32 logits."
    )


if __name__ == "__main__":
    main()
