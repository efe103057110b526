"""Train the demo model or its draft model for a given time. An interrupted run continues from its
last checkpoint.

    python -m tools.train_demo.train --minutes 65
    python -m tools.train_demo.train --draft --minutes 10

The learning rate is constant at first and falls to zero in the last part of the given time. The
schedule is therefore complete even if the machine is busy and runs fewer steps. The text is
generated during training, and each index of a conversation is used once. The first steps take a
minute or two longer, because the model is compiled for each row length. Compilation requires a C++
compiler. With --eager the model is not compiled, and training runs at half the speed.
"""

from __future__ import annotations

import argparse
import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from tools.train_demo.batches import Batch, pool_batches
from tools.train_demo.model import DRAFT, MAIN, Llama
from tools.train_demo.tokenizer import train_tokenizer

__all__ = ["main"]

SEED = 7
POOL_SIZE = 16384
WARMUP_STEPS = 40
COOLDOWN_SHARE = 0.4
CHECKPOINT_SECONDS = 120.0


class Run:
    """A model in training, with the state that its checkpoint contains."""

    def __init__(self, model: Llama, learning_rate: float, *, is_compiled: bool = True) -> None:
        self.model = model
        self.hidden = _hidden(model)
        self.loss = _loss
        if is_compiled:
            # There are only a few row lengths, but the number of targets differs in every batch.
            self.hidden, self.loss = (
                torch.compile(self.hidden, dynamic=False),
                torch.compile(_loss, dynamic=True),
            )
        self.learning_rate = learning_rate
        self.optimizers = _optimizers(model)
        self.seconds = 0.0
        self.stage_start = 0.0  # The value of `seconds` at the start of the current schedule.
        self.pool = 0
        self.batch = 0
        self.step = 0
        self.tokens = 0

    def train_step(self, batch: Batch, progress: float) -> float:
        """Run one step. `progress` is the share of the schedule that is done, from 0 to 1. Returns
        the loss in nats per answer token.
        """
        warmup = min(1.0, (self.step + 1) / WARMUP_STEPS)
        rate = self.learning_rate * min(warmup, (1.0 - progress) / COOLDOWN_SHARE)
        # The parameters are f32. Each step uses bf16 copies of them.
        weights = {name: parameter.bfloat16() for name, parameter in self.model.named_parameters()}
        learned = batch.targets.flatten().ge(0).nonzero().squeeze(1)
        hidden = (
            self.hidden(weights, batch.tokens, batch.documents)
            .flatten(0, 1)
            .index_select(0, learned)
        )
        loss = self.loss(
            hidden,
            weights["model.embed_tokens.weight"],
            batch.targets.flatten().index_select(0, learned),
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += batch.num_tokens
        return loss.item()

    def save(self, path: Path) -> None:
        """Write the checkpoint. The file is replaced only after the new one is complete."""
        counters = {
            name: getattr(self, name)
            for name in ("seconds", "stage_start", "pool", "batch", "step", "tokens")
        }
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        torch.save(
            {"model": self.model.state_dict(), "optimizers": states, "counters": counters},
            path.with_suffix(".part"),
        )
        path.with_suffix(".part").replace(path)

    def restore(self, path: Path) -> None:
        """Read the state from a checkpoint."""
        saved = torch.load(path, weights_only=True)
        self.model.load_state_dict(saved["model"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        for name, value in saved["counters"].items():
            setattr(self, name, value)


def start_from(model: Llama, tokenizer: Tokenizer, directory: Path) -> None:
    """Copy the weights of the run in `directory` into `model`. The tokenizers may differ. If the
    other tokenizer lacks a token, the token's embedding is the mean of the embeddings of the pieces
    into which the other tokenizer splits it.
    """
    weights = torch.load(directory / "checkpoint.pt", weights_only=True)["model"]
    former = Tokenizer.from_file(str(directory.parent / "tokenizer.json"))
    embedding = weights["model.embed_tokens.weight"]
    rows = model.model.embed_tokens.weight.detach().clone()
    for token, index in tokenizer.get_vocab().items():
        known = former.token_to_id(token)
        pieces = (
            [known]
            if known is not None
            else former.encode(tokenizer.decode([index]), add_special_tokens=False).ids
        )
        if pieces:
            rows[index] = embedding[pieces].mean(0)
    model.load_state_dict({**weights, "model.embed_tokens.weight": rows})


def _hidden(model: Llama) -> Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]:
    """Return the model as a function of its weights, so that it can run with copies of them."""
    return lambda weights, tokens, documents: torch.func.functional_call(
        model, weights, (tokens, documents)
    )


def _loss(hidden: Tensor, embedding: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(functional.linear(hidden, embedding).float(), targets)


def _optimizers(model: Llama) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the layers and AdamW for the other parameters."""
    matrices = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.dim() == 2 and "layers" in name
    ]
    others = [
        parameter
        for name, parameter in model.named_parameters()
        if not (parameter.dim() == 2 and "layers" in name)
    ]
    return [
        torch.optim.Muon(matrices, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def train(
    run: Run, tokenizer: Tokenizer, directory: Path, budget: float, batch_tokens: int
) -> None:
    """Train until the total training time is `budget` seconds, or until SIGINT or SIGTERM. In both
    cases the state is saved.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    log = (directory / "loss.jsonl").open("a", encoding="utf-8")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f}%"),
        TimeRemainingColumn(),
    )
    with log, Progress(*columns) as bar:
        task = bar.add_task("training", total=budget, completed=run.seconds)
        last, saved = time.monotonic(), run.seconds
        while run.seconds < budget and not stop.is_set():
            skipped = run.batch
            for index, batch in enumerate(
                pool_batches(tokenizer, SEED, run.pool, POOL_SIZE, batch_tokens)
            ):
                if index < skipped:
                    continue
                loss = run.train_step(
                    batch, min(1.0, (run.seconds - run.stage_start) / (budget - run.stage_start))
                )
                run.batch = index + 1
                now = time.monotonic()
                run.seconds, last = run.seconds + now - last, now
                bar.update(
                    task, completed=run.seconds, description=f"step {run.step} loss {loss:.3f}"
                )
                log.write(
                    json.dumps(
                        {
                            "step": run.step,
                            "tokens": run.tokens,
                            "seconds": round(run.seconds, 1),
                            "loss": round(loss, 4),
                        }
                    )
                    + "\n"
                )
                log.flush()
                if run.seconds - saved > CHECKPOINT_SECONDS:
                    run.save(directory / "checkpoint.pt")
                    saved = run.seconds
                if run.seconds >= budget or stop.is_set():
                    break
            else:
                run.pool, run.batch = run.pool + 1, 0
    run.save(directory / "checkpoint.pt")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draft", action="store_true", help="train the draft model")
    parser.add_argument(
        "--minutes", type=float, default=65.0, help="training time of all stages together"
    )
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path("build/train_demo"),
        help="folder for checkpoints and logs",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument(
        "--new-stage",
        action="store_true",
        help="start a new schedule at the checkpoint, to continue the training of a finished model",
    )
    parser.add_argument(
        "--start-from", type=Path, help="directory of another run whose weights are the start"
    )
    parser.add_argument("--eager", action="store_true", help="do not compile the model")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    directory = arguments.directory / ("draft" if arguments.draft else "main")
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer_path = arguments.directory / "tokenizer.json"
    if not tokenizer_path.is_file():
        train_tokenizer().save(str(tokenizer_path))
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    run = Run(
        Llama(DRAFT if arguments.draft else MAIN),
        arguments.learning_rate,
        is_compiled=not arguments.eager,
    )
    if (directory / "checkpoint.pt").is_file():
        run.restore(directory / "checkpoint.pt")
        if arguments.new_stage:
            run.stage_start = run.seconds
    elif arguments.start_from:
        start_from(run.model, tokenizer, arguments.start_from)
    train(run, tokenizer, directory, arguments.minutes * 60, arguments.batch_tokens)


if __name__ == "__main__":
    main()
