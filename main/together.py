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
        self._waiting: dict[Key, asyncio.Future[Value | None]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def __call__(self, key: Key) -> Value | None:
        """Return the answer for a key, or None where there is none."""
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ask_all())
        return await asyncio.shield(future)  # others wait for it as well

    async def _ask_all(self) -> None:
        while self._waiting:
            batch = dict(islice(self._waiting.items(), self._most))
            for key in batch:
                del self._waiting[key]
            try:
                answers = await self._ask(list(batch))
            except Exception as error:  # noqa: BLE001 it goes on to those who asked
                for future in batch.values():
                    future.set_exception(error)
                    future.exception()  # who asked may have left: nobody else has to hear of it
            else:
                for key, future in batch.items():
                    future.set_result(answers.get(key))
        self._asking = None
