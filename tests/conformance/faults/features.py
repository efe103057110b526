"""Faults of features, each wrapped around the complete backend."""

from __future__ import annotations

import numpy as np

from tests.conformance.faults.feature_wrappers import (
    faulty_complete,
    in_added,
    in_control,
    in_network,
    in_output,
    in_rows,
    in_steps,
    struct,
)
from tgi.backend import ControlResult, PooledVector, UnloadAdapter, WrongStateError

# Adapters


def adapter_of_the_first(step):
    return struct(step, added=[struct(new, adapter=step.added[0].adapter) for new in step.added])


def base_is_changed(inner, request):
    result = inner.control(request)
    if request.name == "adapter_load" and result.ok:
        weights = inner._part._network.inner._weights
        weights[0] = weights[request.number]
    return result


def adapters_stay(inner, request):
    """The first adapter with a number stays loaded, even after it is unloaded or replaced."""
    known = inner._part._network.adapters
    if isinstance(request, UnloadAdapter) or getattr(request, "number", 0) in known:
        return ControlResult(True)
    return inner.control(request)


def unknown_is_base():
    """Only 0 and 1 to n are loaded. Sequences with another adapter get the model itself."""
    return in_added(lambda new: struct(new, adapter=0) if new.adapter == 5 else new)


def resumed_without_adapter(new):
    return struct(new, adapter=0) if len(new.tokens) > new.num_prompt_tokens else new


def anything_goes(inner, request):
    inner.control(request)
    return ControlResult(True)


def any_rank(inner, request):
    agreed = inner._part._agreement
    inner._part._agreement = struct(agreed, limits=struct(agreed.limits, max_adapter_rank=99))
    result = inner.control(request)
    inner._part._agreement = agreed
    return result


def unknown_controls_raise(inner, request):
    if request.name == "no_such_control":
        raise KeyError(request.name)
    return inner.control(request)


def agreeing(change):
    """Change the negotiated limits."""
    return faulty_complete(
        lambda: {"negotiate": lambda inner, requested: change(inner.negotiate(requested))}
    )


def without(*features):
    return agreeing(
        lambda agreement: struct(
            agreement, features=tuple(f for f in agreement.features if f not in features)
        )
    )


def without_text_when_resumed(new):
    return (
        struct(new, encoder_tokens=new.encoder_tokens * 0)
        if len(new.tokens) > new.num_prompt_tokens
        else new
    )


def rounded_by_batch(output, step):
    """The rounding error grows with the number of rows."""
    return struct(output, logprobs=output.logprobs - np.float32(1e-6 * step.rows.num_rows))


# Several tokens


def draft_tokens_believed(output, step):
    """Every draft token is accepted."""
    rows = step.rows
    if not len(rows.draft):
        return output
    tokens, ptr = [], [0]
    for row in range(rows.num_rows):
        draft_tokens = rows.draft[rows.draft_ptr[row] : rows.draft_ptr[row + 1]].tolist()
        chosen = output.tokens[output.token_ptr[row] : output.token_ptr[row + 1]].tolist()
        tokens += [*draft_tokens, chosen[-1]] if chosen else []
        ptr.append(len(tokens))
    logprobs = np.full(len(tokens), -1.0, np.float32)
    return struct(
        output,
        tokens=np.array(tokens, np.int32),
        token_ptr=np.array(ptr, np.int32),
        logprobs=logprobs,
    )


def no_draft_tokens(rows):
    none = np.empty(0, np.int32)
    return struct(
        rows,
        max_tokens=np.ones_like(rows.max_tokens),
        extra_draw=rows.extra_draw[:0],
        draft_ptr=none,
        draft=none,
    )


def likeliest_draft_tokens(rows):
    """Draft tokens are compared with the most likely token, not with the drawn one."""
    return struct(rows, extra_draw=np.zeros_like(rows.extra_draw))


def draws_rolled(rows):
    return struct(rows, extra_draw=np.roll(rows.extra_draw, 1))


def one_mask_for_a_row(step):
    if step.masks is None:
        return step
    words = step.masks.words.reshape(len(step.masks.row), -1)
    _, first, place = np.unique(step.masks.row, return_index=True, return_inverse=True)
    return struct(step, masks=struct(step.masks, words=words[first[place]].reshape(-1)))


def one_token_more(output, step):
    """The last row returns one token more than requested."""
    if not len(step.rows.max_tokens) or not len(output.tokens):
        return output
    ptr = output.token_ptr.copy()
    ptr[-1] += step.rows.max_tokens[-1] - (ptr[-1] - ptr[-2]) + 1
    missing = ptr[-1] - len(output.tokens)
    return struct(
        output,
        token_ptr=ptr,
        tokens=np.append(output.tokens, np.full(missing, 5, np.int32)),
        logprobs=np.append(output.logprobs, np.full(missing, -1.0, np.float32)),
    )


def budget_ignored(step):
    """Every decode row samples as many tokens as negotiated."""
    rows = step.rows
    most = np.where((rows.count == 1) & (rows.start > 0) & (rows.sample == 1), 4, 1).astype(
        np.int32
    )
    return struct(
        step,
        rows=struct(rows, max_tokens=most, extra_draw=np.zeros(int((most - 1).sum()), np.float32)),
    )


# Images and pooling


def images_of_the_first(step):
    return struct(step, added=[struct(new, media=step.added[0].media) for new in step.added])


def one_position_later(new):
    return struct(new, media=[struct(item, start=item.start + 1) for item in new.media])


def image_lost_when_resumed(new):
    return struct(new, media=[]) if len(new.tokens) > new.num_prompt_tokens else new


def image_begins_again():
    """After a chunk boundary within an image, its first row is used again."""
    borders = {}

    def change(new, num_tokens):
        border = borders.setdefault(
            b"".join(item.pixels.tobytes() for item in new.media), num_tokens
        )

        def changed(item):
            done = border - item.start
            rows = np.arange(item.length)
            return (
                struct(item, pixels=item.pixels[np.where(rows >= done, rows - done, rows)])
                if 0 < done < item.length
                else item
            )

        return struct(new, media=[changed(item) for item in new.media])

    return change


def first_and_last_exchanged(new):
    return struct(new, pooling={"first": "last", "last": "first"}.get(new.pooling, new.pooling))


def without_the_first(hidden):
    return hidden[1:] if len(hidden) > 1 else hidden


def vector_of_each_chunk(output, step):
    """Every row of a text returns a vector."""
    if output.pooled or not (step.rows.sample == 0).any():
        return output
    handle = int(step.rows.sequence[np.flatnonzero(step.rows.sample == 0)[0]])
    return struct(output, pooled=[PooledVector(handle, np.zeros(32, np.float32))])


# Sleep, blocks


def wakes_empty(inner, request):
    result = inner.control(request)
    if request.name == "wake" and result.ok:
        weights = inner._part._network.inner._weights
        weights[0] = {parameter: np.zeros_like(array) for parameter, array in weights[0].items()}
    return result


def steps_asleep():
    def submit(inner, step):
        try:
            inner.submit(step)
        except WrongStateError:
            return

    return {"submit": submit}


def sleeps_at_once(inner, request):
    if request.name == "sleep":
        inner._part._table.clear()
    return inner.control(request)


def stale_export():
    """Export the blocks without the last step."""
    before = []

    def collect(inner):
        before[:] = [inner._part._caches.blocks._slots.copy()]
        return inner.collect()

    def control(inner, request):
        if request.name != "kv_export" or not before:
            return inner.control(request)
        now, inner._part._caches.blocks._slots = inner._part._caches.blocks._slots, before[0]
        result = inner.control(request)
        inner._part._caches.blocks._slots = now
        return result

    return {"collect": collect, "control": control}


def import_of_one_block(inner, request):
    """Import all blocks except the last."""
    if request.name != "kv_import":
        return inner.control(request)
    last = request.blocks[-1]
    before = inner._part._caches.blocks._slots[last].copy()
    result = inner.control(request)
    inner._part._caches.blocks._slots[last] = before
    return result


def imports_anything(inner, request):
    result = inner.control(request)
    return ControlResult(True) if request.name == "kv_import" else result


FEATURE_FAULTS = {
    # adapters
    "the first sequence's adapter for all": (in_steps(adapter_of_the_first), "C-58a"),
    "an adapter changes the model": (in_control(base_is_changed), "C-58a"),
    "no adapter after a preemption": (in_added(resumed_without_adapter), "C-58a"),
    "an unloaded adapter stays": (in_control(adapters_stay), "C-58b"),
    "an unknown adapter is ignored": (unknown_is_base(), "C-58c"),
    "every adapter is accepted": (in_control(anything_goes), "C-58d"),
    "every rank is accepted": (in_control(any_rank), "C-58d"),
    "an unknown control raises": (in_control(unknown_controls_raise), "C-58e"),
    # contradictory limits
    "several tokens without a feature": (without("drafts", "multi_token"), "C-11"),
    "adapters without the feature": (without("lora"), "C-11"),
    "exported blocks without a prefix cache": (without("prefix_cache"), "C-11"),
    # encoders
    "no text for the encoder after a preemption": (in_added(without_text_when_resumed), "C-59a"),
    "rounding that depends on the batch": (in_output(rounded_by_batch), "C-42b"),
    # several tokens
    "every draft token is accepted": (in_output(draft_tokens_believed), "C-59c"),
    "draft tokens compared with the most likely": (in_rows(likeliest_draft_tokens), "C-59c"),
    "no draft token is accepted": (in_rows(no_draft_tokens), "C-59c"),
    "further draws of another token": (in_rows(draws_rolled), "C-59d"),
    "one mask for all tokens of a row": (in_steps(one_mask_for_a_row), "C-59e"),
    "one draw for all tokens of a row": (in_rows(likeliest_draft_tokens), "C-59f"),
    "a token more than requested": (in_output(one_token_more), "C-59f"),
    "never several tokens": (in_rows(no_draft_tokens), "C-59f"),
    "an ignored token budget": (in_steps(budget_ignored), "C-59g"),
    # images and pooling
    "the first sequence's image for all": (in_steps(images_of_the_first), "C-59h"),
    "images one position later": (in_added(one_position_later), "C-59h"),
    "no image after a preemption": (in_added(image_lost_when_resumed), "C-59h"),
    "an image begins again after a chunk": (in_network(change_new=image_begins_again), "C-59i"),
    "the vector of the wrong token": (in_added(first_and_last_exchanged), "C-59j"),
    "the first token is not pooled": (
        in_network(change_hidden=lambda: without_the_first),
        "C-59j",
    ),
    "a vector for every chunk": (in_output(vector_of_each_chunk), "C-59j"),
    # sleep and blocks
    "has no cache after wake": (in_control(wakes_empty), "C-59k"),
    "accepts steps while sleeping": (faulty_complete(steps_asleep), "C-59k"),
    "sleeps while sequences are alive": (in_control(sleeps_at_once), "C-59k"),
    "exports blocks without the last step": (faulty_complete(stale_export), "C-59l"),
    "does not import the last block": (in_control(import_of_one_block), "C-59l"),
    "imports invalid files": (in_control(imports_anything), "C-59l"),
}
"""Fault → the backend with the fault, and the check that must detect it."""
