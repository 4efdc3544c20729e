"""A web process's one subscription to Redis, taken up again whenever it breaks, and what it reads there.

Nothing here raises because Redis is away: what cannot be read is not there, and `back` is called when it is again.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, NamedTuple

import orjson
from django.conf import settings
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from main.channel import REDIS_TIMEOUT, meta_key, owner_channel, read_meta, stream_key
from main.events import Event, Snapshot
from main.owned import News
from main.owner_events import OwnerEvent
from main.together import Together

logger = logging.getLogger(__name__)

# What says that Redis is away. uvloop raises a RuntimeError where a connection closes just as something is written.
REDIS_AWAY = (RedisError, OSError, RuntimeError)
# Seconds that Redis may take for an answer before it is taken for hung.
PING_PATIENCE = 1.0
# Seconds that events which were missed may take to be read: many may be, and nobody else waits for them.
READ_PATIENCE = 2.0
# Seconds between two tries to reach it.
PAUSE = 0.5
# A channel that is always subscribed, so that the connection lives while nothing is watched.
IDLE_CHANNEL = "pump"


class Asked(NamedTuple):
    """What is read in one round trip: of a stream what follows a number, at most so many; "" reads from its start."""

    stream: str
    after: str = ""
    most: int | None = None


class Subscription:
    """Channels that are listened to. `heard` gets what comes, by channel; `back` is called after every new start."""

    def __init__(self, heard: Callable[[str, bytes], None], back: Callable[[], None]) -> None:
        self._heard = heard
        self._back = back
        self._redis: Redis | None = None
        self._pubsub: PubSub | None = None
        self._connected = asyncio.Event()
        self._lost_at = 0.0
        self._wanted: set[str] = set()
        self._subscribed: dict[str, asyncio.Event] = {}
        self._arranging = Together(self._arrange, most=1_000_000)
        self._metas = Together(self._read_metas)
        self._streams = Together(self._read_streams, most=50)  # each may be long
        self._echo = asyncio.Event()

    @property
    def is_connected(self) -> bool:
        return self._connected.is_set()

    @property
    def away_for(self) -> float:
        """Seconds since Redis was last listened to; 0 while it is."""
        return 0.0 if self.is_connected else time.monotonic() - self._lost_at

    # What is listened to

    async def add(self, channel: str) -> None:
        """Listen to a channel: what comes after this returns is heard, or Redis is away."""
        self._wanted.add(channel)
        try:
            async with asyncio.timeout(REDIS_TIMEOUT):
                await self._connected.wait()
                await self._arranging(channel)
                await self._subscribed[channel].wait()
        except (*REDIS_AWAY, KeyError):  # the listener subscribes anew as soon as it can
            pass

    async def remove(self, channel: str) -> None:
        self._wanted.discard(channel)
        if self.is_connected:
            await self._arranging(channel)

    async def _arrange(self, _channels: list[str]) -> dict[str, None]:
        """Subscribe to what is wanted, and to nothing else: who comes and goes at once costs two commands in all."""
        more, less = self._wanted - self._subscribed.keys(), self._subscribed.keys() - self._wanted
        if self._pubsub and self.is_connected:
            self._subscribed |= {channel: asyncio.Event() for channel in more}
            for channel in less:
                del self._subscribed[channel]
            try:
                if less:
                    await self._pubsub.unsubscribe(*less)
                if more:
                    await self._pubsub.subscribe(*more)
            except REDIS_AWAY:
                await self.disconnect()  # so that the listener subscribes anew
        return {}

    async def listen(self) -> None:
        """Listen for ever. A connection that breaks is made anew at once, one that cannot be made after a pause."""
        while True:
            try:
                await self._listen()
            except REDIS_AWAY as error:
                logger.warning("no live events: Redis does not answer (%s)", type(error).__name__)
            except Exception:
                logger.exception("the pump stumbled")
            finally:
                was_connected = self.is_connected
                await self.disconnect()
            if not was_connected:
                await asyncio.sleep(PAUSE)

    async def _listen(self) -> None:
        await self._connect()
        assert self._pubsub  # noqa: S101
        self._subscribed = {channel: asyncio.Event() for channel in self._wanted}
        await self._pubsub.subscribe(IDLE_CHANNEL, *self._subscribed)
        self._connected.set()
        self._back()
        while True:
            message = await self._pubsub.get_message(timeout=None)
            if message is None:
                continue
            channel = message["channel"].decode()
            if channel == IDLE_CHANNEL:
                self._echo.set()
            elif message["type"] == "message":
                self._hear(channel, message["data"])
            elif message["type"] == "subscribe" and channel in self._subscribed:
                self._subscribed[channel].set()

    def _hear(self, channel: str, data: bytes) -> None:
        try:
            self._heard(channel, data)
        except Exception:
            logger.exception("what came on %s could not be told", channel)

    # How it is connected

    async def _connect(self) -> None:
        self._redis = Redis.from_url(
            settings.REDIS_URL, socket_connect_timeout=REDIS_TIMEOUT, retry=Retry(NoBackoff(), 0)
        )
        self._pubsub = self._redis.pubsub()
        async with asyncio.timeout(PING_PATIENCE):
            await self._redis.ping()

    async def disconnect(self) -> None:
        if self.is_connected:
            self._lost_at = time.monotonic()
        self._connected.clear()
        self._subscribed = {}
        if self._redis:
            with suppress(*REDIS_AWAY):
                await self._redis.aclose()

    async def notice_silence(self) -> None:
        """Leave a Redis that hangs, and a connection that carries nothing any more: that alone breaks none."""
        if not self._redis or not self.is_connected:
            return
        self._echo.clear()
        try:
            async with asyncio.timeout(PING_PATIENCE):
                await self._redis.publish(IDLE_CHANNEL, b"")
                await self._echo.wait()
        except REDIS_AWAY:
            await self.disconnect()

    # What is read

    async def meta(self, execution_id: str) -> Snapshot | None:
        """Return the snapshot in an execution's task meta."""
        return await self._metas(execution_id)

    async def events(self, execution_id: str, after: str = "", most: int | None = None) -> list[Event]:
        """Return the events of an execution after a number, or all that Redis has."""
        rows = await self._streams(Asked(stream_key(execution_id), f"({after}" if after else "-", most))
        return [orjson.loads(fields[b"e"]) for _, fields in rows or []]

    async def news(self, owner: str, since: str) -> list[News]:
        """Return what an owner was told from a number on, with that itself."""
        rows = await self._streams(Asked(owner_channel(owner), since))
        return [News(number.decode(), OwnerEvent.decode(fields[b"e"])) for number, fields in rows or []]

    async def newest(self, owner: str) -> str:
        """Return the number of the last that an owner was told, "" where there is none."""
        rows = await self._ask(lambda redis: redis.xrevrange(owner_channel(owner), count=1))
        return rows[0][0].decode() if rows else ""

    async def _read_metas(self, ids: list[str]) -> dict[str, Snapshot]:
        metas = await self._ask(lambda redis: redis.mget([meta_key(id_) for id_ in ids]))
        read = zip(ids, map(read_meta, metas or []), strict=False)
        return {id_: meta for id_, meta in read if meta}

    async def _read_streams(self, asked: list[Asked]) -> dict[Asked, Any]:
        def read(redis: Redis) -> Awaitable[Any]:
            pipeline = redis.pipeline(transaction=False)
            for each in asked:
                pipeline.xrange(each.stream, each.after, "+", count=each.most)
            return pipeline.execute(raise_on_error=False)

        replies = await self._ask(read, READ_PATIENCE) or []
        pairs = zip(asked, replies, strict=False)
        return {each: rows for each, rows in pairs if not isinstance(rows, Exception)}

    async def _ask(
        self,
        what: Callable[[Redis], Awaitable[Any] | Coroutine[Any, Any, Any]],
        patience: float = REDIS_TIMEOUT,
    ) -> Any:
        if not self._redis or not self.is_connected:
            return None
        try:
            async with asyncio.timeout(patience):
                return await what(self._redis)
        except REDIS_AWAY:
            return None
