"""Work that a program does, counted instead of timed: the same on a busy machine."""

import sys
import tracemalloc

__all__ = ["count_calls", "peak_bytes"]


def count_calls(work):
    """Calls that Python sees while `work()` runs, of its own functions and of those in C."""
    num_calls = 0

    def profile(frame, event, argument):
        nonlocal num_calls
        num_calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(before)
    return num_calls


def peak_bytes(work):
    """Most bytes of Python's memory held at once while `work()` runs, beyond those before, and what
    is left of them after.
    """
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        work()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - before, after - before
