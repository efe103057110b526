"""Checks the requirements on the result of every step."""

from __future__ import annotations

import numpy as np

from tgi.backend import Agreement, ModelRunnerOutput, SchedulerOutput
from tgi.testing.conformance.require import require

__all__ = ["check_output"]


def check_output(step: SchedulerOutput, output: ModelRunnerOutput, agreement: Agreement) -> None:
    """Raise `CheckFailedError` if the result does not match the step.

    Checks rows, tokens, arrays, errors and times.
    """
    rows = step.rows
    require(
        output.step_id == step.step_id,
        f"the result of step {step.step_id} has the id of step {output.step_id}",
    )
    asked, responded = sorted(rows.sequence.tolist()), sorted(output.sequence.tolist())
    require(
        asked == responded, f"a step with rows of sequences {asked} has results for {responded}"
    )
    pointers = output.token_ptr.tolist()
    is_sound = (
        len(pointers) == len(responded) + 1
        and pointers[0] == 0
        and pointers[-1] == len(output.tokens)
    )
    require(
        is_sound and pointers == sorted(pointers),
        f"`token_ptr` {pointers} does not match {len(output.tokens)} tokens",
    )
    require(len(output.logprobs) == len(output.tokens), "`logprobs` and `tokens` differ in length")
    in_vocabulary = bool(((output.tokens >= 0) & (output.tokens < agreement.vocab_size)).all())
    require(
        in_vocabulary,
        f"tokens {output.tokens.tolist()} are outside the vocabulary of {agreement.vocab_size}",
    )
    failed = {error.sequence for error in output.errors}
    require(
        failed <= set(responded),
        f"there are errors of sequences without a row: {sorted(failed - set(responded))}",
    )
    _check_counts(step, output, failed)
    is_padded = not output.num_padded_tokens or output.num_padded_tokens >= rows.num_tokens
    require(
        is_padded, f"{rows.num_tokens} tokens exceed the padded size {output.num_padded_tokens}"
    )
    _check_tops(output, agreement)
    _check_prompt_tops(output, agreement)
    times = output.times
    parts = {
        "prepare": times.prepare,
        "forward": times.forward,
        "sample": times.sample,
        "compile": times.compile,
    }
    require(min(parts.values()) >= 0, f"a time is negative: {parts}")


def _check_counts(step: SchedulerOutput, output: ModelRunnerOutput, failed: set[int]) -> None:
    """Check that each row has the requested number of tokens, and that only pooled rows have pooled
    vectors.
    """
    rows, pointers = step.rows, output.token_ptr.tolist()
    budgets = rows.max_tokens if len(rows.max_tokens) else np.ones(rows.num_rows, np.int32)
    most_of = dict(zip(rows.sequence.tolist(), (budgets * rows.sample).tolist(), strict=True))
    for row, handle in enumerate(output.sequence.tolist()):
        count = pointers[row + 1] - pointers[row]
        most = most_of[handle]
        if not most:
            require(count == 0, f"sequence {handle} got {count} tokens without requesting any")
        elif handle not in failed:
            require(
                1 <= count <= most,
                f"sequence {handle} requested 1 to {most} tokens, but got {count} without an error",
            )
    unasked = {vector.sequence for vector in output.pooled} - {
        handle for handle, most in most_of.items() if not most
    }
    require(not unasked, f"sequences {sorted(unasked)} got vectors, but requested tokens")


def _check_tops(output: ModelRunnerOutput, agreement: Agreement) -> None:
    pointers = output.top_ptr
    if not len(pointers):
        require(not len(output.top_ids), "there are top tokens, but no `top_ptr`")
        return
    require(
        len(pointers) == len(output.tokens) + 1,
        f"`top_ptr` has {len(pointers)} entries for {len(output.tokens)} tokens",
    )
    require(bool((np.diff(pointers) >= 0).all()), f"`top_ptr` {pointers.tolist()} decreases")
    require(
        int(pointers[-1]) == len(output.top_ids) == len(output.top_logprobs),
        "`top_ptr` does not match the top tokens",
    )
    is_known = bool(((output.top_ids >= 0) & (output.top_ids < agreement.vocab_size)).all())
    require(is_known, "a top token is outside the vocabulary")


def _check_prompt_tops(output: ModelRunnerOutput, agreement: Agreement) -> None:
    for scores in output.prompt_scores:
        num_tokens, num_positions = len(scores.top_ids), len(scores.logprobs)
        is_rectangular = num_tokens == len(scores.top_logprobs) and (
            not num_tokens or (num_positions > 0 and num_tokens % num_positions == 0)
        )
        require(
            is_rectangular,
            f"{num_tokens} top tokens with {len(scores.top_logprobs)} log probabilities do not"
            f" match {num_positions} prompt scores",
        )
        is_known = bool(((scores.top_ids >= 0) & (scores.top_ids < agreement.vocab_size)).all())
        require(is_known, "a top token of a prompt position is outside the vocabulary")
