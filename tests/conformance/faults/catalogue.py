"""Backends with one fault each, most of them wrapped around the numpy reference."""

from __future__ import annotations

import time
from dataclasses import replace

from tests.conformance.faults.lifecycle import (
    accepts_more_sequences,
    always_healthy,
    breaks_after_refusal,
    change_signals,
    disturbing_health,
    every_supported_feature,
    forgets_outstanding,
    ignores_wrong_state,
    late_masks_not_awaited,
    late_masks_of_the_next_row,
    leave_a_thread,
    load_says_nothing,
    lost_device,
    more_than_requested,
    second_close_fails,
    swallow_model_errors,
    unknown_feature,
    vocabulary_rounded_up,
    write_beside_the_model,
)
from tests.conformance.faults.resources import (
    agrees_beyond_the_fraction,
    agrees_to_any_cache,
    believing_its_cache,
    codes_are_numbers,
    halved,
    keeping,
    other_scores_after_a_preemption,
    quantized,
    quantized_in_whole_groups,
    second_half_missing,
    sharded,
    take_host_memory,
    takes_more_than_agreed,
    with_coded_cache,
    with_memory,
)
from tests.conformance.faults.steps import (
    boasted_times,
    chunk_border_lost,
    constant_draw,
    copies_ignored,
    cut_ties,
    draw_by_row,
    error_for_everybody,
    half_the_slots,
    hits_ignored,
    in_mask_words,
    last_slot_lost,
    last_token_of_a_mask_is_never_allowed,
    leaked_sampling,
    lost_drops,
    mask_ignored,
    mask_of_the_next_row,
    masks_end_with_a_whole_word,
    missing_row,
    nan_spreads,
    no_token_fails_the_step,
    no_token_means_every_token,
    off_by_one_block,
    output_counts_as_prompt,
    reversed_ids,
    rows_mixed_up,
    sampling,
    scores_off_by_one,
    scores_rolled,
    scores_without_tops,
    special_tokens_are_never_allowed,
    stale_block_table,
    tie_takes_the_highest,
    token_without_sample,
    tokens_on_device_are_zero,
    tops_of_prompts_ascending,
    tops_of_the_next_position,
    unannounced_compile,
    words_above_a_mask_allow_everything,
    wrong_logprob,
    wrong_top_ids,
    wrong_top_order,
)
from tests.conformance.faults.wrappers import (
    PLAN,
    FaultyBackend,
    attention,
    in_model,
    in_output,
    in_sampling,
    in_steps,
    in_worker,
    struct,
)
from tgi.backend import Support

# Faults of the model


# Faults of steps


# Faults of results


# Faults of the worker


# Faults of masks, memory, quantization and shards


SLOTS = replace(PLAN, mode="slots", max_sequences=8, features=("logprobs",))

HEALTHY = {
    "C-14a": keeping(lambda: "program"),
    "C-14b": keeping(lambda: "program"),
    "C-13": with_memory(),
    "C-29": FaultyBackend(plan=SLOTS),
    "C-36a": quantized(),
    "C-36b": quantized(),
    "C-36d": with_coded_cache(),
    "C-37": sharded(),
}
"""Check → a backend without a fault, for checks that do not apply to the plain reference."""

FAULTS = {
    # files for the next startup
    "compiles at every startup": (keeping(lambda: f"program-{time.monotonic_ns()}"), "C-14a"),
    "trusts a damaged cache": (believing_its_cache(), "C-14b"),
    # memory, quantization, shards
    "negotiates more than the fraction": (
        with_memory(lambda: {"negotiate": agrees_beyond_the_fraction}),
        "C-13",
    ),
    "negotiates any cache size": (with_memory(lambda: {"negotiate": agrees_to_any_cache}), "C-13"),
    "uses more than negotiated": (with_memory(lambda: {"health": takes_more_than_agreed}), "C-13"),
    "uses memory of the host": (
        with_memory(model=lambda: {"change_batch": take_host_memory([])}),
        "C-13",
    ),
    "lost after a step without memory": (in_worker(collect=lost_device), "C-54"),
    "two sequences in a slot": (replace(in_steps(half_the_slots), plan=SLOTS), "C-29"),
    "quantized with large errors": (quantized(halved), "C-36a"),
    "quantized but not smaller": (quantized(reported_bytes=1000), "C-36a"),
    "quantized only in whole groups": (quantized_in_whole_groups(), "C-36b"),
    "codes taken for weights": (in_worker(load=codes_are_numbers), "C-36c"),
    "a cache of codes with large errors": (with_coded_cache(halved), "C-36d"),
    "a cache of codes but not smaller": (with_coded_cache(reported_bytes=1000), "C-36d"),
    "a cache of codes that is not recomputed": (
        with_coded_cache(worker=other_scores_after_a_preemption),
        "C-36d",
    ),
    "half of the vocabulary is lost": (sharded(second_half_missing), "C-37"),
    # masks
    "late masks ignored": (in_worker(submit=late_masks_not_awaited), "C-46b"),
    "late masks of the next row": (in_worker(submit=late_masks_of_the_next_row), "C-46b"),
    "no watermark in drawn text": (in_sampling(sampling(watermark_gamma=lambda _: 0.0)), "C-59b"),
    # model
    "wrong rope": (FaultyBackend(attention(rope=lambda rope: struct(rope, theta=1e6))), "C-17"),
    "rope of adjacent pairs": (
        FaultyBackend(attention(rope=lambda rope: struct(rope, interleaved=True))),
        "C-31",
    ),
    "rope scaling ignored": (
        FaultyBackend(attention(rope=lambda rope: rope and struct(rope, scaling=None))),
        "C-32",
    ),
    "window off by one": (
        FaultyBackend(attention(window=lambda window: window and window + 1)),
        "C-33",
    ),
    "no causality": (FaultyBackend(attention(causal=lambda _: False)), "C-34"),
    "block off by one": (in_model(off_by_one_block), "C-17"),
    "chunk boundary loses a token": (in_model(chunk_border_lost), "C-23"),
    "unsampled rows store nothing": (in_model(chunk_border_lost), "C-22"),
    "rows mixed up": (in_model(None, rows_mixed_up), "C-19"),
    "NaN spreads": (in_model(None, nan_spreads), "C-35"),
    "one block fewer than negotiated": (in_model(last_slot_lost), "C-12"),
    "close leaves a thread": (in_model(on_close=leave_a_thread), "C-15"),
    # steps
    "lost drop": (in_steps(lost_drops), "C-21"),
    "state leaks with the handle": (in_steps(leaked_sampling), "C-21"),
    "stale block table": (in_steps(stale_block_table), "C-18"),
    "draw ignored": (in_steps(constant_draw), "C-40a"),
    "draw of another row": (in_steps(draw_by_row), "C-42a"),
    "mask ignored": (in_steps(mask_ignored), "C-46a"),
    "mask of the next row": (in_steps(mask_of_the_next_row), "C-46a"),
    "no allowed token means every token": (
        in_steps(in_mask_words(no_token_means_every_token)),
        "C-46c",
    ),
    "no allowed token fails the step": (in_steps(in_mask_words(no_token_fails_the_step)), "C-46c"),
    "special tokens are never allowed": (
        in_steps(in_mask_words(special_tokens_are_never_allowed)),
        "C-46d",
    ),
    "a mask with one word allows nothing": (
        in_steps(in_mask_words(last_token_of_a_mask_is_never_allowed)),
        "C-46d",
    ),
    "words above a mask allow everything": (
        in_steps(in_mask_words(words_above_a_mask_allow_everything)),
        "C-46e",
    ),
    "masks end with a whole word": (in_steps(in_mask_words(masks_end_with_a_whole_word)), "C-46e"),
    "copies ignored": (in_steps(copies_ignored), "C-28b"),
    "prefix hits read elsewhere": (in_steps(hits_ignored), "C-28a"),
    "tokens on the device are zero": (in_steps(tokens_on_device_are_zero), "C-50b"),
    "output counts as prompt": (in_steps(output_counts_as_prompt), "C-41"),
    # sampling
    "temperature ignored": (in_sampling(sampling(temperature=lambda _: 1.0)), "C-40a"),
    "top_k off by one": (in_sampling(sampling(top_k=lambda k: k and k + 1)), "C-40a"),
    "top_p ignored": (in_sampling(sampling(top_p=lambda _: 1.0)), "C-40a"),
    "typical_p ignored": (in_sampling(sampling(typical_p=lambda _: 1.0)), "C-40a"),
    "min_p ignored": (in_sampling(sampling(min_p=lambda _: 0.0)), "C-40a"),
    "repetition penalty ignored": (in_sampling(sampling(repetition_penalty=lambda _: 1.0)), "C-41"),
    "presence taken for frequency": (
        in_sampling(
            lambda p: struct(
                p, presence_penalty=p.frequency_penalty, frequency_penalty=p.presence_penalty
            )
        ),
        "C-41",
    ),
    "logit bias on the next id": (
        in_sampling(
            sampling(logit_bias=lambda bias: tuple((token + 1, value) for token, value in bias))
        ),
        "C-41",
    ),
    "watermark ignored": (in_sampling(sampling(watermark_gamma=lambda _: 0.0)), "C-41"),
    "raw and processed swapped": (
        in_sampling(
            sampling(logprobs=lambda m: {"raw": "processed", "processed": "raw"}.get(m, m))
        ),
        "C-44a",
    ),
    # results
    "ids in the wrong order": (in_output(reversed_ids), "C-20"),
    "token without sample": (in_output(token_without_sample), "C-22"),
    "wrong log probability": (in_output(wrong_logprob), "C-44a"),
    "top tokens ascending": (in_output(wrong_top_order), "C-44a"),
    "top tokens of wrong ids": (in_output(wrong_top_ids), "C-44a"),
    "prompt scores at the next position": (in_output(scores_off_by_one), "C-45"),
    "prompt scores rolled": (in_output(scores_rolled), "C-45"),
    "no top tokens of prompts": (in_output(scores_without_tops), "C-45"),
    "top tokens of the next prompt position": (in_output(tops_of_the_next_position), "C-45"),
    "top tokens of prompts ascending": (in_output(tops_of_prompts_ascending), "C-45"),
    "ties of top tokens cut": (in_output(cut_ties), "C-44b"),
    "tie takes the highest id": (in_output(tie_takes_the_highest), "C-39"),
    "compilation not reported": (in_output(unannounced_compile), "C-47"),
    "times longer than the clock": (in_output(boasted_times), "C-49"),
    "a row is missing": (in_output(missing_row), "C-19"),
    "an error of one row fails all": (in_output(error_for_everybody), "C-35"),
    # worker
    "wrong state accepted": (FaultyBackend(worker=lambda: ignores_wrong_state("warmup")), "C-09"),
    "second close fails": (FaultyBackend(worker=second_close_fails), "C-57"),
    "health always true": (in_worker(health=always_healthy), "C-53a"),
    "deep health computes nothing": (
        in_worker(health=lambda inner, deep: inner.health(False)),
        "C-53b",
    ),
    "deep health disturbs": (in_worker(health=disturbing_health), "C-53a"),
    "more than requested": (in_worker(negotiate=more_than_requested), "C-11"),
    "vocabulary rounded up": (in_worker(negotiate=vocabulary_rounded_up), "C-11"),
    "unknown feature": (in_worker(negotiate=unknown_feature), "C-11"),
    "features that were not requested": (in_worker(negotiate=every_supported_feature), "C-11b"),
    "more sequences than negotiated accepted": (in_worker(submit=accepts_more_sequences), "C-26"),
    "does not recover from a rejected step": (FaultyBackend(worker=breaks_after_refusal), "C-26"),
    "depth not enforced": (in_worker(submit=forgets_outstanding), "C-50a"),
    "progress not reported": (in_worker(load=load_says_nothing), "C-10a"),
    "error names nothing": (in_worker(load=swallow_model_errors), "C-10b"),
    "writes to the model folder": (in_worker(load=write_beside_the_model), "C-16"),
    "changes signal handlers": (in_worker(load=change_signals), "C-16"),
    # `Backend` class
    "other name": (
        FaultyBackend(methods={"info": lambda info: struct(info, name="other")}),
        "C-02",
    ),
    "future API": (FaultyBackend(methods={"info": lambda info: struct(info, api=(1, 99))}), "C-02"),
    "supports everything": (
        FaultyBackend(methods={"supports": lambda *_: Support("native")}),
        "C-06",
    ),
    "rejects without a reason": (
        FaultyBackend(methods={"supports": lambda *_: Support("no")}),
        "C-06",
    ),
}
"""Fault → the backend with the fault, and the check that must detect it."""
