"""Counts of the work that a function does. Unlike times, counts do not depend on other load on the
machine.
"""

import gc
import sys
import tracemalloc

__all__ = ["calls_of", "count_calls", "peak_bytes"]


def count_calls(work):
    """Return the number of calls of Python and C functions while `work()` runs, as reported by
    `sys.setprofile`. No garbage of earlier tests is collected in the meantime, because its
    finalizers would be counted.
    """
    num_calls = 0

    def profile(frame, event, argument):
        nonlocal num_calls
        num_calls += event in ("call", "c_call")

    before, is_collecting = sys.getprofile(), gc.isenabled()
    gc.disable()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(before)
        if is_collecting:
            gc.enable()
    return num_calls


def calls_of(work, names):
    """Calls of the functions in `names` (module or class, and name) while `work()` runs."""
    num_calls = 0

    def profile(frame, event, argument):
        nonlocal num_calls
        if event == "call":
            code = frame.f_code
            name = f"{frame.f_globals['__name__']}.{code.co_qualname}"
        elif event == "c_call":
            name = f"{argument.__module__}.{argument.__qualname__}"
        else:
            return
        num_calls += name in names

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(before)
    return num_calls


def peak_bytes(work):
    """Return the peak of Python's allocated memory while `work()` runs and the memory that is still
    allocated afterwards. Both are in bytes, relative to the memory allocated before the call.
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
