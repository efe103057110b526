"""Runs the generations of one request concurrently."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

__all__ = ["merge", "merge_when_all_begin", "run_all"]

T = TypeVar("T")


async def run_all(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run the coroutines concurrently. Returns their results in the order of `works`. If a
    coroutine fails, the other coroutines are cancelled and awaited. The exception of the failed
    coroutine is then raised.
    """
    if len(works) == 1:
        return [await works[0]]
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await _cancel(tasks)


def merge(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """Yield the items of all streams in the order in which they become available. If one stream
    fails, or if the merged stream is closed, all streams are closed. The exception of a failed
    stream is raised.

    Each stream produces at most one item in advance if the consumer is slow.
    """
    return streams[0] if len(streams) == 1 else _merge(streams)


async def _merge(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    pending = {asyncio.ensure_future(anext(stream)): stream for stream in streams}
    try:
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                stream = pending.pop(task)
                try:
                    item = task.result()
                except StopAsyncIteration:
                    continue
                pending[asyncio.ensure_future(anext(stream))] = stream
                yield item
    finally:
        await _cancel(pending)
        for stream in streams:
            await stream.aclose()


def merge_when_all_begin(
    streams: Sequence[AsyncGenerator[str, None]],
) -> AsyncGenerator[str, None]:
    """Yield the joined first items of all streams, and then the same items as `merge`. If a stream
    fails before its first item, the exception is therefore raised before any item.
    """
    return streams[0] if len(streams) == 1 else _merge_when_all_begin(streams)


async def _merge_when_all_begin(
    streams: Sequence[AsyncGenerator[str, None]],
) -> AsyncGenerator[str, None]:
    try:
        yield "".join(await run_all([_first(stream) for stream in streams]))
        async with aclosing(_merge(streams)) as merged:
            async for item in merged:
                yield item
    finally:
        for stream in streams:
            await stream.aclose()


async def _first(stream: AsyncGenerator[str, None]) -> str:
    return await anext(stream)


async def _cancel(tasks: Iterable[asyncio.Future[Any]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
