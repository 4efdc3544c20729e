"""Ask once for many: what several ask for at the same moment costs one round trip."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping
from itertools import islice
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Together(Generic[Key, Value]):
    """Asks for all keys at once that are asked for while the last answer is under way.

    So a lone question waits for nobody, and a thousand of them cost a handful of round trips. `ask` gets the keys, at
    most so many, and returns the answers by key; what it raises is raised to all who asked for them.
    """

    def __init__(self, ask: Callable[[list[Key]], Awaitable[Mapping[Key, Value]]], most: int = 200) -> None:
        self._ask = ask
        self._most = most
        self._waiting: dict[Key, list[asyncio.Future[Value | None]]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def __call__(self, key: Key) -> Value | None:
        """Return the answer for a key, or None where there is none."""
        # Each who asks has a future: one that all shared would be cancelled with the first of them who leaves.
        future: asyncio.Future[Value | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(future)
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ask_all())
        return await future

    async def _ask_all(self) -> None:
        try:
            while self._waiting:
                batch = dict(islice(self._waiting.items(), self._most))
                for key in batch:
                    del self._waiting[key]
                await self._answer(batch)
        finally:
            self._asking = None

    async def _answer(self, batch: dict[Key, list[asyncio.Future[Value | None]]]) -> None:
        try:
            answers = await self._ask(list(batch))
        except Exception as error:  # noqa: BLE001 it goes on to those who asked
            for future in _still_waiting(batch):
                future.set_exception(error)
        except asyncio.CancelledError:  # the server ends
            for future in [*_still_waiting(batch), *_still_waiting(self._waiting)]:
                future.cancel()
            self._waiting.clear()
            raise
        else:
            for key, futures in batch.items():
                for future in _still_waiting({key: futures}):
                    future.set_result(answers.get(key))


def _still_waiting(
    batch: dict[Key, list[asyncio.Future[Value | None]]],
) -> list[asyncio.Future[Value | None]]:
    return [future for futures in batch.values() for future in futures if not future.done()]
