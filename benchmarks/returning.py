"""Watchers who come back by themselves, as a browser's EventSource does: after the time that the stream told them last
(`retry:`), with the id of the last event that they had. An answer that is no stream is final to them.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from benchmarks.client import UnexpectedAnswerError
from benchmarks.numbers import Numbers
from benchmarks.streams import PATIENCE, Door, Message, ReadingWatcher, some_at_once

# Seconds after which a browser comes back where the stream says nothing of it.
UNTOLD = 3.0


class Returning:
    """One who watches an execution, and comes back. `seen` is what they have seen in all."""

    def __init__(self, port: int, door: Door) -> None:
        self.seen = Numbers()
        self.arrived = asyncio.Event()
        self.refused = 0
        self.doing = ""
        self._port = port
        self._door = door
        self._last_id = ""
        self._retry = UNTOLD

    async def watch(self) -> None:
        """Watch until the task is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            watcher = ReadingWatcher(self._door.request(self._last_id), self._hear)
            self.doing = "connecting"
            try:
                await loop.create_connection(lambda watcher=watcher: watcher, "127.0.0.1", self._port)  # type: ignore[misc]
                await self._stay(watcher)
            except OSError:
                pass
            finally:
                watcher.close()
            self.doing = "staying away"
            await asyncio.sleep(self._retry)

    async def _stay(self, watcher: ReadingWatcher) -> None:
        self.doing = "asking"
        status = await watcher.opened
        if status not in (0, 200):
            self.refused = status
            raise UnexpectedAnswerError(f"Who came back was answered {status}.")
        if status:
            self.doing = "watching"
            self.arrived.set()
        await watcher.ended

    def _hear(self, message: Message) -> None:
        self._last_id = message.id or self._last_id
        self._retry = message.retry / 1000 or self._retry
        self.seen.hear(message)


@asynccontextmanager
async def watching(watchers: Sequence[Returning]) -> AsyncIterator[None]:
    """Let them watch until the end of the block. At first they come one after the other, as people do."""
    tasks = []

    async def arrive(watcher: Returning) -> None:
        tasks.append(asyncio.create_task(watcher.watch()))
        async with asyncio.timeout(PATIENCE):
            await watcher.arrived.wait()

    try:
        await some_at_once(watchers, arrive)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
