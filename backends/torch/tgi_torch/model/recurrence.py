"""The recurrences of state-space layers in plain PyTorch, the reference for faster implementations.

Rows of one token are computed together. Each other row is computed alone, in chunks of tokens.
Each row continues from the state of its sequence and updates this state in place. The tokens of a
sequence may therefore be divided among steps in any way.

Shapes: T tokens of all rows, R rows, S states, C channels, H heads, P head size, G groups, N state
size, Q tokens of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from tgi_torch.attention.paged import AttentionMetadata

__all__ = [
    "DeltaInputs",
    "ScanInputs",
    "StatePlan",
    "causal_convolution",
    "gated_delta_scan",
    "linear_scan",
    "plan_states",
    "selective_scan",
]

_CHUNK = 64  # number of tokens that are computed together in matrix products


@final
@dataclass(frozen=True)
class StateRow:
    """A row of several tokens. Its tokens are `start` to `stop` - 1 in the step."""

    start: int
    stop: int
    state: int


@final
@dataclass(frozen=True)
class StatePlan:
    """The state from which each row of a step continues."""

    single_tokens: Tensor  # int64, token indices of the rows of one token
    single_states: Tensor  # int64, the states of these rows
    rows: tuple[StateRow, ...]  # the other rows


def plan_states(metadata: AttentionMetadata) -> StatePlan:
    """Group the rows of a step by their length. Raises AssertionError if they have no states."""
    assert metadata.states is not None
    tokens, single, rows = list[int](), list[int](), list[StateRow]()
    start = 0
    for state, query_len in zip(metadata.states.tolist(), metadata.query_lens, strict=True):
        if query_len == 1:
            tokens.append(start)
            single.append(state)
        elif query_len:
            rows.append(StateRow(start, start + query_len, state))
        start += query_len
    device = metadata.states.device
    return StatePlan(
        torch.tensor(tokens, device=device).long(),
        torch.tensor(single, device=device).long(),
        tuple(rows),
    )


@final
@dataclass(frozen=True)
class ScanInputs:
    """The operands of the recurrence, all in float32. All except `decay` are per token.

    state = exp(dt * decay) * state + dt * x b        y = state c
    """

    x: Tensor  # [T, H, P]
    dt: Tensor  # [T, H]
    b: Tensor  # [T, G, N]; each group is used by H / G heads
    c: Tensor  # [T, G, N]
    decay: Tensor  # [H, N], or [H, 1] if all values of a head's state have the same decay (Mamba 2)

    def take(self, tokens: Tensor | slice) -> ScanInputs:
        """The operands of some tokens."""
        return ScanInputs(
            self.x[tokens], self.dt[tokens], self.b[tokens], self.c[tokens], self.decay
        )

    def for_heads(self, side: Tensor) -> Tensor:
        """`b` or `c`, repeated for each head: [T, H, N]."""
        return side.repeat_interleave(self.x.shape[1] // side.shape[1], dim=1)


def causal_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor, plan: StatePlan
) -> Tensor:
    """Compute the weighted sum of the last K inputs of each channel, [T, C] to [T, C].

    `weight` is [C, K], with the newest input last. `window` [S, C, K - 1] contains the inputs
    before each row. This function replaces them with the row's last inputs.
    """
    out = torch.empty_like(x)
    if len(plan.single_states):
        seen = torch.cat([window[plan.single_states], x[plan.single_tokens].unsqueeze(-1)], dim=-1)
        window[plan.single_states] = seen[..., 1:]
        summed = (seen * weight).sum(-1)
        out[plan.single_tokens] = summed if bias is None else summed + bias
    for row in plan.rows:
        seen = torch.cat([window[row.state], x[row.start : row.stop].T], dim=-1)
        window[row.state] = seen[:, seen.shape[1] - window.shape[-1] :]
        summed = functional.conv1d(seen.unsqueeze(0), weight.unsqueeze(1), bias, groups=len(weight))
        out[row.start : row.stop] = summed[0].T
    return out


@final
@dataclass(frozen=True)
class DeltaInputs:
    """The operands of the gated delta rule (arXiv 2412.06464) per token, all in float32.

    state = exp(log_kept) * state;  state = state + k (beta * (v - k state))';  y = q state
    """

    q: Tensor  # [T, H, K]
    k: Tensor  # [T, H, K], each with L2 norm 1
    v: Tensor  # [T, H, V]
    log_kept: Tensor  # [T, H], at most 0
    beta: Tensor  # [T, H]

    def take(self, tokens: Tensor | slice) -> DeltaInputs:
        """The operands of some tokens."""
        return DeltaInputs(
            self.q[tokens], self.k[tokens], self.v[tokens], self.log_kept[tokens], self.beta[tokens]
        )


def gated_delta_scan(inputs: DeltaInputs, states: Tensor, plan: StatePlan) -> Tensor:
    """Apply the gated delta rule to all rows and update `states` float32 [S, H, K, V].

    Returns y float32 [T, H, V].
    """
    out = torch.empty_like(inputs.v)
    if len(plan.single_states):
        state, out[plan.single_tokens] = _advance_delta(
            inputs.take(plan.single_tokens), states[plan.single_states]
        )
        states[plan.single_states] = state
    for row in plan.rows:
        state = states[row.state]
        for start in range(row.start, row.stop, _CHUNK):
            piece = slice(start, min(start + _CHUNK, row.stop))
            state, out[piece] = _advance_delta_chunk(inputs.take(piece), state)
        states[row.state] = state
    return out


def _advance_delta(inputs: DeltaInputs, state: Tensor) -> tuple[Tensor, Tensor]:
    """Compute one token of each of R sequences. `state` is [R, H, K, V]."""
    state = state * inputs.log_kept.exp()[..., None, None]
    known = (inputs.k.unsqueeze(2) @ state).squeeze(2)  # [R, H, V]
    change = inputs.beta.unsqueeze(-1) * (inputs.v - known)
    state = state + inputs.k.unsqueeze(-1) * change.unsqueeze(2)
    return state, (inputs.q.unsqueeze(2) @ state).squeeze(2)


def _advance_delta_chunk(inputs: DeltaInputs, state: Tensor) -> tuple[Tensor, Tensor]:
    """Compute Q consecutive tokens of one sequence. `state` is [H, K, V].

    The changes d of the values depend on each other. They are the solution of a triangular system
    (arXiv 2412.06464, section 3.2), with G[t, s] = exp(log_kept[s + 1] + … + log_kept[t]):

        d[t] + beta[t] * sum over s < t of G[t, s] (k[t] k[s]) d[s]
            = beta[t] * (v[t] - exp(log_kept[0] + … + log_kept[t]) k[t] state)
    """
    q, k, v = (side.transpose(0, 1) for side in (inputs.q, inputs.k, inputs.v))  # [H, Q, …]
    beta = inputs.beta.T.unsqueeze(-1)  # [H, Q, 1]
    factors = _factors_between(inputs.log_kept.T)
    from_start = inputs.log_kept.cumsum(0).T.exp().unsqueeze(-1)  # [H, Q, 1]
    system = (beta * (k @ k.transpose(1, 2)) * factors).tril(-1)
    changes = torch.linalg.solve_triangular(
        system, beta * (v - from_start * (k @ state)), upper=False, unitriangular=True
    )
    y = from_start * (q @ state) + ((q @ k.transpose(1, 2)) * factors) @ changes
    to_end = factors[:, -1].unsqueeze(-1)  # [H, Q, 1]
    state = from_start[:, -1:] * state + (k * to_end).transpose(1, 2) @ changes
    return state, y.transpose(0, 1)


def _factors_between(log_kept: Tensor) -> Tensor:
    """Return exp(log_kept[s + 1] + … + log_kept[t]) for s <= t, and 0 for s > t, [H, Q, Q].

    `log_kept` is [H, Q]. The sums are not differences of cumulative sums, because such a difference
    of large numbers is inaccurate.
    """
    count = log_kept.shape[1]
    ones = torch.ones(count, count, dtype=torch.bool, device=log_kept.device)
    terms = log_kept.unsqueeze(2).expand(-1, -1, count).masked_fill(~ones.tril(-1), 0.0)
    return terms.cumsum(1).masked_fill(ones.triu(1), float("-inf")).exp()


def linear_scan(kept: Tensor, x: Tensor, states: Tensor, plan: StatePlan) -> Tensor:
    """Apply state = kept * state + x to all rows and update `states` float32 [S, C].

    `kept` and `x` are float32 [T, C]. Returns the state after each token, float32 [T, C].
    """
    out = torch.empty_like(x)
    if len(plan.single_states):
        tokens = plan.single_tokens
        out[tokens] = kept[tokens] * states[plan.single_states] + x[tokens]
        states[plan.single_states] = out[tokens]
    for row in plan.rows:
        state = states[row.state]
        for start in range(row.start, row.stop, _CHUNK):
            piece = slice(start, min(start + _CHUNK, row.stop))
            out[piece] = _states_of_chunk(kept[piece], x[piece], state)
            state = out[piece.stop - 1]
        states[row.state] = state
    return out


def _states_of_chunk(kept: Tensor, x: Tensor, state: Tensor) -> Tensor:
    """Compute the states after Q tokens of the recurrence state = kept * state + x.

    `kept` and `x` are [Q, …], and `state` is […]. Each of log2(Q) passes combines every token with
    the result of a token before it. No factor is divided by another one, so factors near 0 cause no
    rounding errors.
    """
    x = torch.cat([(kept[0] * state + x[0]).unsqueeze(0), x[1:]])
    distance = 1
    while distance < len(x):
        x = torch.cat([x[:distance], x[distance:] + kept[distance:] * x[:-distance]])
        kept = torch.cat([kept[:distance], kept[distance:] * kept[:-distance]])
        distance *= 2
    return x


def selective_scan(inputs: ScanInputs, states: Tensor, plan: StatePlan) -> Tensor:
    """Apply the recurrence of Mamba to all rows and update `states` float32 [S, H, P, N].

    Returns y float32 [T, H, P].
    """
    out = torch.empty_like(inputs.x)
    if len(plan.single_states):
        state, out[plan.single_tokens] = _advance(
            inputs.take(plan.single_tokens), states[plan.single_states]
        )
        states[plan.single_states] = state
    scan = _scan_by_chunks if inputs.decay.shape[1] == 1 else _scan_each_value
    for row in plan.rows:
        piece = slice(row.start, row.stop)
        state, out[piece] = scan(inputs.take(piece), states[row.state])
        states[row.state] = state
    return out


def _advance(inputs: ScanInputs, state: Tensor) -> tuple[Tensor, Tensor]:
    """Compute one token of each of R sequences. `state` is [R, H, P, N]."""
    b, c = inputs.for_heads(inputs.b), inputs.for_heads(inputs.c)
    kept = torch.exp(inputs.dt.unsqueeze(-1) * inputs.decay).unsqueeze(2)  # [R, H, 1, N]
    state = kept * state + (inputs.dt.unsqueeze(-1) * inputs.x).unsqueeze(-1) * b.unsqueeze(2)
    return state, (state @ c.unsqueeze(-1)).squeeze(-1)


def _scan_each_value(inputs: ScanInputs, state: Tensor) -> tuple[Tensor, Tensor]:
    """Compute one chunk after the other. Each value of a state [H, P, N] has a separate decay."""
    outputs = []
    for start in range(0, len(inputs.x), _CHUNK):
        chunk = inputs.take(slice(start, start + _CHUNK))
        b, c = chunk.for_heads(chunk.b), chunk.for_heads(chunk.c)  # [Q, H, N]
        kept = torch.exp(chunk.dt.unsqueeze(-1) * chunk.decay).unsqueeze(2)  # [Q, H, 1, N]
        x = (chunk.dt.unsqueeze(-1) * chunk.x).unsqueeze(-1) * b.unsqueeze(2)  # [Q, H, P, N]
        after = _states_of_chunk(kept, x, state)
        outputs.append((after @ c.unsqueeze(-1)).squeeze(-1))
        state = after[-1]
    return state, torch.cat(outputs)


def _scan_by_chunks(inputs: ScanInputs, state: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the chunks one by one with matrix products (arXiv 2405.21060, section 6).

    `state` is [H, P, N]. Requires one decay per head.
    """
    outputs = []
    for start in range(0, len(inputs.x), _CHUNK):
        chunk = inputs.take(slice(start, start + _CHUNK))
        log_kept = chunk.dt * chunk.decay.squeeze(1)  # [Q, H]
        # [H, Q, 1]: the factor that is applied to the state before the chunk, at each token.
        from_start = log_kept.cumsum(0).T.exp().unsqueeze(-1)
        b, c = (chunk.for_heads(side).transpose(0, 1) for side in (chunk.b, chunk.c))  # [H, Q, N]
        factors = _factors_between(log_kept.T)
        weights = (c @ b.transpose(1, 2)) * factors
        x = (chunk.dt.unsqueeze(-1) * chunk.x).transpose(0, 1)  # [H, Q, P]
        before = (c * from_start) @ state.transpose(1, 2)
        outputs.append((weights @ x + before).transpose(0, 1))
        # [H, Q, 1]: the factor that is applied to each input at the end of the chunk.
        to_end = factors[:, -1].unsqueeze(-1)
        state = from_start[:, -1:] * state + (x * to_end).transpose(1, 2) @ b
    return state, torch.cat(outputs)
