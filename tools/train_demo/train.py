"""Train the demo model or its draft for a given time; an interrupted run goes on where its checkpoint stands.

    python -m tools.train_demo.train --minutes 65
    python -m tools.train_demo.train --draft --minutes 10

The learning rate follows the share of the time that has passed, so a run on a busy machine ends in time with a finished schedule.
Text is generated while training; no conversation occurs twice by index.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import threading
import time
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from tools.train_demo.batches import pool_batches
from tools.train_demo.model import DRAFT, MAIN, Llama
from tools.train_demo.tokenizer import train_tokenizer

__all__ = ["main"]

SEED = 7
POOL_SIZE = 8192
MAX_LENGTH = 768
WARMUP_SHARE = 0.01
CHECKPOINT_SECONDS = 180.0


class Run:
    """A model in training and everything that its checkpoint holds."""

    def __init__(self, model: Llama, learning_rate: float, optimizer: str) -> None:
        self.model = model
        self.learning_rate = learning_rate
        self.optimizers = _optimizers(model, optimizer)
        self.seconds = 0.0
        self.stage_start = 0.0  # where the present schedule began
        self.pool = 0
        self.batch = 0
        self.step = 0
        self.tokens = 0

    def train_step(self, tokens: Tensor, targets: Tensor, progress: float) -> float:
        """One step at `progress` (0 … 1 of the schedule); returns the loss."""
        rate = self.learning_rate * min(1.0, progress / WARMUP_SHARE) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        # The parameters stay f32; each step runs on their bf16 copies.
        weights = {name: parameter.bfloat16() for name, parameter in self.model.named_parameters()}
        hidden = torch.func.functional_call(self.model, weights, (tokens,))
        logits = functional.linear(hidden[targets >= 0], weights["model.embed_tokens.weight"])
        loss = functional.cross_entropy(logits.float(), targets[targets >= 0])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = max(rate, 1e-6)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += tokens.numel()
        return loss.item()

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all."""
        counters = {name: getattr(self, name) for name in ("seconds", "stage_start", "pool", "batch", "step", "tokens")}
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        torch.save({"model": self.model.state_dict(), "optimizers": states, "counters": counters}, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint."""
        saved = torch.load(path, weights_only=True)
        self.model.load_state_dict(saved["model"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        for name, value in saved["counters"].items():
            setattr(self, name, value)


def _optimizers(model: Llama, kind: str) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the layers' matrices and AdamW for the rest."""
    matrices = [parameter for name, parameter in model.named_parameters() if parameter.dim() == 2 and "layers" in name]
    others = [parameter for name, parameter in model.named_parameters() if not (parameter.dim() == 2 and "layers" in name)]
    betas = (0.9, 0.98)
    if kind == "muon":
        return [
            torch.optim.Muon(matrices, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, betas=betas, weight_decay=0.0),
        ]
    return [torch.optim.AdamW([{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], betas=betas)]


def train(run: Run, tokenizer: Tokenizer, directory: Path, budget: float, batch_tokens: int) -> None:
    """Train until `budget` seconds of training have passed, or a signal asks to stop; either way the state is saved."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    log = (directory / "loss.jsonl").open("a", encoding="utf-8")
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%"), TimeRemainingColumn())
    with log, Progress(*columns) as bar:
        task = bar.add_task("training", total=budget, completed=run.seconds)
        last, saved = time.monotonic(), run.seconds
        while run.seconds < budget and not stop.is_set():
            skipped = run.batch
            for index, batch in enumerate(pool_batches(tokenizer, SEED, run.pool, POOL_SIZE, batch_tokens, MAX_LENGTH)):
                if index < skipped:
                    continue
                loss = run.train_step(*batch, min(1.0, (run.seconds - run.stage_start) / (budget - run.stage_start)))
                run.batch = index + 1
                now = time.monotonic()
                run.seconds, last = run.seconds + now - last, now
                bar.update(task, completed=run.seconds, description=f"step {run.step} loss {loss:.3f}")
                log.write(
                    json.dumps({"step": run.step, "tokens": run.tokens, "seconds": round(run.seconds, 1), "loss": round(loss, 4)})
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
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draft", action="store_true", help="train the draft model")
    parser.add_argument("--minutes", type=float, default=65.0, help="time to train for, all stages together")
    parser.add_argument("--directory", type=Path, default=Path("build/train_demo"), help="checkpoints and logs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument(
        "--new-stage", action="store_true", help="begin a schedule at the checkpoint: train a finished model further"
    )
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="muon")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    directory = arguments.directory / ("draft" if arguments.draft else "main")
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer_path = arguments.directory / "tokenizer.json"
    if not tokenizer_path.is_file():
        train_tokenizer().save(str(tokenizer_path))
    run = Run(Llama(DRAFT if arguments.draft else MAIN), arguments.learning_rate, arguments.optimizer)
    if (directory / "checkpoint.pt").is_file():
        run.restore(directory / "checkpoint.pt")
        if arguments.new_stage:
            run.stage_start = run.seconds
    train(run, Tokenizer.from_file(str(tokenizer_path)), directory, arguments.minutes * 60, arguments.batch_tokens)


if __name__ == "__main__":
    main()
