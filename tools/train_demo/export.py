"""Write a trained model as a checkpoint in Hugging Face's format, and a plot of its loss.

python -m tools.train_demo.export --curve docs/demo-model-loss.png
    build/train_demo/main core/tgi/demo/model
python -m tools.train_demo.export --draft build/train_demo/draft core/tgi/demo/draft
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from tools.train_demo.chat_format import CHAT_TEMPLATE, END, PAD
from tools.train_demo.model import DRAFT, MAIN

__all__ = ["export", "main"]


def export(source: Path, target: Path, is_draft: bool) -> None:
    """Write weights (bf16), config, tokenizer, chat template and generation config of the
    checkpoint in `source`.
    """
    shape = DRAFT if is_draft else MAIN
    target.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(source.parent / "tokenizer.json"))
    end, pad = tokenizer.token_to_id(END), tokenizer.token_to_id(PAD)
    weights = torch.load(source / "checkpoint.pt", weights_only=True)["model"]
    save_file(
        {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.items()},
        str(target / "model.safetensors"),
        metadata={"format": "pt"},
    )
    (target / "model.safetensors").chmod(0o644)
    tokenizer.save(str(target / "tokenizer.json"))
    _write(target / "config.json", shape.config(end, pad))
    _write(
        target / "generation_config.json",
        {"eos_token_id": end, "pad_token_id": pad, "do_sample": False},
    )
    _write(
        target / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END,
            "pad_token": PAD,
            "model_max_length": shape.max_positions,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )


def draw_curve(sources: Sequence[Path], picture: Path) -> None:
    """Plot the loss over the number of training tokens: single steps in a pale colour and their
    running mean in a dark one. Each run in `sources` continues the previous run.
    """
    import matplotlib.pyplot as plt  # noqa: PLC0415 - needed only for the plot

    rows: list[dict[str, float]] = []
    for source in sources:
        before = rows[-1]["tokens"] if rows else 0
        lines = map(json.loads, (source / "loss.jsonl").read_text(encoding="utf-8").splitlines())
        # After an interruption, the steps since the last checkpoint are in the log twice. The later
        # entry is used.
        rows += [
            {**row, "tokens": before + row["tokens"]}
            for row in {line["step"]: line for line in lines}.values()
        ]
    tokens = [row["tokens"] / 1e6 for row in rows]
    losses = [row["loss"] for row in rows]
    smooth = [losses[0]]
    for loss in losses[1:]:
        smooth.append(0.98 * smooth[-1] + 0.02 * loss)
    figure, axes = plt.subplots(figsize=(7, 4), dpi=100)
    axes.plot(tokens, losses, color="#c8d4e4", linewidth=0.6)
    axes.plot(tokens, smooth, color="#1f4e8c", linewidth=1.4)
    axes.set(
        yscale="log", xlabel="tokens seen (millions)", ylabel="loss on answers (nats per token)"
    )
    axes.grid(True, which="both", color="#eeeeee")
    figure.tight_layout()
    figure.savefig(picture)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="a directory of tools.train_demo.train")
    parser.add_argument("target", type=Path, help="the directory to write")
    parser.add_argument("--draft", action="store_true")
    parser.add_argument("--curve", type=Path, help="file for the plot of the loss")
    parser.add_argument(
        "--former", type=Path, help="the run with whose weights this run started, for the plot"
    )
    arguments = parser.parse_args()
    export(arguments.source, arguments.target, arguments.draft)
    if arguments.curve:
        draw_curve(
            [*([arguments.former] if arguments.former else []), arguments.source], arguments.curve
        )


if __name__ == "__main__":
    main()
