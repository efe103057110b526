"""An event loop with a simulated clock, which advances only when no callback can run. A test that
simulates hours takes milliseconds.
"""

import asyncio
import selectors


class _Selector(selectors.SelectSelector):
    """A selector that does not wait. It advances the clock by the time that it should wait."""

    def __init__(self):
        super().__init__()
        self.now = 0.0

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("the test waits for an event that never happens")
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with a virtual clock that begins at 0."""

    def __init__(self):
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self):
        return self._virtual.now


def run(main):
    """Run a coroutine with a virtual clock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
