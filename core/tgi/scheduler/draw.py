"""The uniform draws for sampling. A draw is a pure function of the seed and the output index, with
the same result on every machine.

The generator is Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy
as 1, 2, 3" (SC 2011). The key is the 64-bit seed, and the counter is (output index, stream, 0, 0).
The top 24 bits of the first word become a float32 in [0, 1), which represents them exactly.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tgi.backend import Float32Array

__all__ = ["philox4x32", "uniform_draws"]

UInt64Array = npt.NDArray[np.uint64]

_NUM_ROUNDS = 10
_WORD = np.uint64(32)
_MASK = np.uint64(0xFFFFFFFF)
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_KEY_STEPS = np.arange(_NUM_ROUNDS, dtype=np.uint64)[:, None, None] * np.array(
    [[0x9E3779B9], [0xBB67AE85]], np.uint64
)


def philox4x32(counter: UInt64Array, key: UInt64Array) -> UInt64Array:
    """Run ten rounds of Philox4x32. `counter` [4, n], `key` [2, n] and the result [4, n] contain
    32-bit words.
    """
    keys = (key + _KEY_STEPS) & _MASK  # [rounds, 2, n]
    even, odd = counter[::2], counter[1::2]
    for round_key in keys:
        product = _MULTIPLIERS * even
        even = (product[::-1] >> _WORD) ^ odd ^ round_key
        odd = product[::-1] & _MASK
    return np.stack((even[0], odd[0], even[1], odd[1]))


def uniform_draws(seeds: UInt64Array, indices: UInt64Array, stream: int = 0) -> Float32Array:
    """Return one draw in [0, 1) per row, from the rows' seeds [n] and output indices [n]."""
    counter = np.zeros((4, len(seeds)), np.uint64)
    counter[0] = indices
    counter[1] = stream
    words = philox4x32(counter, np.stack((seeds & _MASK, seeds >> _WORD)))
    draws: Float32Array = (words[0] >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-24)
    return draws
