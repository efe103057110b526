"""Faults of features, each wrapped around the complete backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from tests.conformance.faults import FaultyWorker
from tgi.backend import (
    ControlResult,
    PooledVector,
    SchedulerOutput,
    UnloadAdapter,
    WrongStateError,
)
from tgi.testing.doubles.complete_backend import CompleteBackend
from tgi.testing.doubles.complete_worker import CompleteWorker
from tgi.testing.reference.network import ReferenceNetwork

struct = msgspec.structs.replace


@dataclass
class FaultyNetwork:
    """`ReferenceNetwork` that sees other sequences, or whose vectors are changed."""

    inner: ReferenceNetwork
    change_new: Callable = lambda new, num_tokens: new
    change_hidden: Callable = lambda hidden: hidden

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def logits(self, new, tokens, encoder_tokens):
        return self.inner.logits(self.change_new(new, len(tokens)), tokens, encoder_tokens)

    def hidden(self, new, tokens):
        return self.change_hidden(self.inner.hidden(new, tokens))


@dataclass
class FaultyComplete:
    """The complete backend with a fault in its worker or its network; both are made anew for each
    worker.
    """

    worker: Callable[[], dict] = dict
    network: Callable[[], dict] = dict
    inner: CompleteBackend = field(default_factory=CompleteBackend)

    @property
    def info(self):
        return self.inner.info

    def probe(self):
        return self.inner.probe()

    def supports(self, spec, config):
        return self.inner.supports(spec, config)

    def create_worker(self, config, reporter):
        network = FaultyNetwork(
            ReferenceNetwork(config.spec, Path(config.model_path)), **self.network()
        )
        return FaultyWorker(CompleteWorker(network, reporter), self.worker())


def in_steps(change):
    """Each step is changed before the worker sees it."""
    return FaultyComplete(
        lambda: {
            "submit": lambda inner, step: inner.submit(
                change(step) if isinstance(step, SchedulerOutput) else step
            )
        }
    )


def in_added(change):
    """Each sequence is introduced otherwise."""
    return in_steps(lambda step: struct(step, added=[change(new) for new in step.added]))


def in_rows(change):
    """Each step's rows are changed."""
    return in_steps(lambda step: struct(step, rows=change(step.rows)))


def in_output(change):
    """Each result is changed; `change(output, step)`."""

    def worker():
        steps = []

        def submit(inner, step):
            inner.submit(step)
            steps.append(step)

        return {
            "submit": submit,
            "collect": lambda inner, timeout: change(inner.collect(timeout), steps.pop(0)),
        }

    return FaultyComplete(worker)


def in_control(change):
    """`change(inner, request)` answers in place of the worker."""
    return FaultyComplete(lambda: {"control": change})


def in_network(**changes):
    return FaultyComplete(network=lambda: {name: make() for name, make in changes.items()})


# Adapters


def adapter_of_the_first(step):
    return struct(step, added=[struct(new, adapter=step.added[0].adapter) for new in step.added])


def base_is_changed(inner, request):
    result = inner.control(request)
    if request.name == "adapter_load" and result.ok:
        weights = inner._network.inner._weights
        weights[0] = weights[request.number]
    return result


def adapters_stay(inner, request):
    """What was loaded once stays under its number, whatever is said later."""
    known = inner._network.adapters
    if isinstance(request, UnloadAdapter) or getattr(request, "number", 0) in known:
        return ControlResult(True)
    return inner.control(request)


def unknown_is_base():
    """Loaded are 0 and 1 … n; whatever else is asked for gets the model alone."""
    return in_added(lambda new: struct(new, adapter=0) if new.adapter == 5 else new)


def resumed_without_adapter(new):
    return struct(new, adapter=0) if len(new.tokens) > new.num_prompt_tokens else new


def anything_goes(inner, request):
    inner.control(request)
    return ControlResult(True)


def any_rank(inner, request):
    agreed = inner._agreement
    inner._agreement = struct(agreed, limits=struct(agreed.limits, max_adapter_rank=99))
    result = inner.control(request)
    inner._agreement = agreed
    return result


def unknown_controls_raise(inner, request):
    if request.name == "no_such_control":
        raise KeyError(request.name)
    return inner.control(request)


def agreeing(change):
    """The agreement is another one."""
    return FaultyComplete(
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
    """The more rows, the more is lost."""
    return struct(output, logprobs=output.logprobs - np.float32(1e-6 * step.rows.num_rows))


# Several tokens


def draft_tokens_believed(output, step):
    """Every guess is taken for the token."""
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
    """Guesses are held against the likeliest token, not against the draw."""
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
    """The last row brings a token more than it was asked for."""
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
    """Every row that decodes brings as many tokens as were agreed."""
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


def blind_when_resumed(new):
    return struct(new, media=[]) if len(new.tokens) > new.num_prompt_tokens else new


def image_begins_again():
    """After a chunk border within an image, its first row is read once more."""
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
    """A vector comes with every row of a text."""
    if output.pooled or not (step.rows.sample == 0).any():
        return output
    handle = int(step.rows.sequence[np.flatnonzero(step.rows.sample == 0)[0]])
    return struct(output, pooled=[PooledVector(handle, np.zeros(32, np.float32))])


# Sleep, blocks


def wakes_empty(inner, request):
    result = inner.control(request)
    if request.name == "wake" and result.ok:
        weights = inner._network.inner._weights
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
        inner._sequences.clear()
    return inner.control(request)


def stale_export():
    """The content of the blocks before the last step."""
    before = []

    def collect(inner, timeout):
        before[:] = [inner._cache._slots.copy()]
        return inner.collect(timeout)

    def control(inner, request):
        if request.name != "kv_export" or not before:
            return inner.control(request)
        now, inner._cache._slots = inner._cache._slots, before[0]
        result = inner.control(request)
        inner._cache._slots = now
        return result

    return {"collect": collect, "control": control}


def import_of_one_block(inner, request):
    """All blocks but the last are filled."""
    if request.name != "kv_import":
        return inner.control(request)
    last = request.blocks[-1]
    before = inner._cache._slots[last].copy()
    result = inner.control(request)
    inner._cache._slots[last] = before
    return result


def imports_anything(inner, request):
    result = inner.control(request)
    return ControlResult(True) if request.name == "kv_import" else result


FEATURE_FAULTS = {
    # adapters
    "the first one's adapter for all": (in_steps(adapter_of_the_first), "C-58a"),
    "an adapter changes the model": (in_control(base_is_changed), "C-58a"),
    "no adapter after a preemption": (in_added(resumed_without_adapter), "C-58a"),
    "an unloaded adapter stays": (in_control(adapters_stay), "C-58b"),
    "an unknown adapter is none": (unknown_is_base(), "C-58c"),
    "every adapter is welcome": (in_control(anything_goes), "C-58d"),
    "every rank is welcome": (in_control(any_rank), "C-58d"),
    "an unknown control raises": (in_control(unknown_controls_raise), "C-58e"),
    # agreements that contradict themselves
    "several tokens without a feature": (without("drafts", "multi_token"), "C-11"),
    "adapters without the feature": (without("lora"), "C-11"),
    "exported blocks that nobody can share": (without("prefix_cache"), "C-11"),
    # encoders
    "no text for the encoder after a preemption": (in_added(without_text_when_resumed), "C-59a"),
    "rounding that depends on the batch": (in_output(rounded_by_batch), "C-42b"),
    # several tokens
    "every guess is believed": (in_output(draft_tokens_believed), "C-59c"),
    "guesses held against the likeliest": (in_rows(likeliest_draft_tokens), "C-59c"),
    "no guess is accepted": (in_rows(no_draft_tokens), "C-59c"),
    "further draws of another token": (in_rows(draws_rolled), "C-59d"),
    "one mask for all tokens of a row": (in_steps(one_mask_for_a_row), "C-59e"),
    "one draw for all tokens of a row": (in_rows(likeliest_draft_tokens), "C-59f"),
    "a token more than asked for": (in_output(one_token_more), "C-59f"),
    "never several tokens": (in_rows(no_draft_tokens), "C-59f"),
    "a budget that nobody reads": (in_steps(budget_ignored), "C-59g"),
    # images and pooling
    "the first one's image for all": (in_steps(images_of_the_first), "C-59h"),
    "images one position later": (in_added(one_position_later), "C-59h"),
    "blind after a preemption": (in_added(blind_when_resumed), "C-59h"),
    "an image begins again after a chunk": (in_network(change_new=image_begins_again), "C-59i"),
    "the vector of the wrong token": (in_added(first_and_last_exchanged), "C-59j"),
    "the first token has no part in a vector": (
        in_network(change_hidden=lambda: without_the_first),
        "C-59j",
    ),
    "a vector for every chunk": (in_output(vector_of_each_chunk), "C-59j"),
    # sleep and blocks
    "wakes up with nothing": (in_control(wakes_empty), "C-59k"),
    "takes steps asleep": (FaultyComplete(steps_asleep), "C-59k"),
    "sleeps while sequences are alive": (in_control(sleeps_at_once), "C-59k"),
    "exports what was there a step before": (FaultyComplete(stale_export), "C-59l"),
    "leaves the last block as it was": (in_control(import_of_one_block), "C-59l"),
    "imports whatever comes": (in_control(imports_anything), "C-59l"),
}
"""Fault → the backend that has it, and the check that must catch it."""
