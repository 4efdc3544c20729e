"""Open streams: who reads slowly costs a bounded buffer, holds up nobody, and is caught up."""

import asyncio
import socket
from collections.abc import MutableMapping
from typing import Any

import orjson
import pytest

from main.access import Viewer
from main.events import NO_EVENT, Event, EventId, Snapshot
from main.tests.platform import Platform, Visitor
from main.tests.streams import stored_snapshot
from main.together import Together
from main.watched import EventWatcher, SnapshotWatcher, Told, Watched
from main.watchers import Piece, Watcher


class Client:
    """Takes what a server's `send` is given, and stops reading when it is told to."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.reads = asyncio.Event()
        self.reads.set()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        await self.reads.wait()
        self.got.append(message.get("body", b""))


class Numbers(Watcher):
    """Is told numbers up to `newest`, each once."""

    def __init__(self, client: Client) -> None:
        super().__init__(client.send, Viewer("somebody"))
        self.newest = self.told = 0

    async def missed(self) -> Piece | None:
        if self.told == self.newest:
            return None
        self.told += 1
        return Piece(b"%d" % self.told)

    def happen(self) -> None:
        self.newest += 1
        if self.is_live:
            self.told = self.newest
            self.deliver(Piece(b"%d" % self.told))


async def live() -> tuple[Client, Numbers]:
    """Return a client that reads, and its watcher."""
    client = Client()
    watcher = Numbers(client)
    await watcher.catch_up()
    return client, watcher


async def behind() -> tuple[Client, Numbers]:
    """Return a client that does not read, and its watcher, which has just told it something."""
    client, watcher = await live()
    client.reads.clear()
    watcher.happen()
    return client, watcher


def test_who_reads_is_sent_what_happens_without_a_task() -> None:
    async def watch() -> None:
        client, watcher = await live()
        before = asyncio.all_tasks()
        for _ in range(3):
            watcher.happen()
        assert client.got == [b"1", b"2", b"3"]  # at once: this coroutine did not give way
        assert asyncio.all_tasks() == before

    asyncio.run(watch())


def test_who_does_not_read_is_left_behind_and_caught_up() -> None:
    async def watch() -> None:
        client, watcher = await behind()
        for _ in range(999):
            watcher.happen()
        assert client.got == []
        assert watcher.told == 1  # one piece waits in the server's hands, and nothing behind it
        client.reads.set()
        async with asyncio.timeout(5):
            while not watcher.is_live:
                await asyncio.sleep(0)
        assert client.got == [b"%d" % number for number in range(1, 1001)]
        watcher.happen()
        assert client.got[-1] == b"1001"

    asyncio.run(watch())


def test_a_last_word_comes_also_to_who_is_behind() -> None:
    async def watch() -> None:
        client, watcher = await behind()
        watcher.end(b"bye")
        watcher.comment()  # which nobody behind is sent
        client.reads.set()
        async with asyncio.timeout(5):
            while not watcher.is_over:
                await asyncio.sleep(0)
        assert client.got == [b"1", b"bye"]

    asyncio.run(watch())


def test_a_last_word_that_comes_while_it_is_asked_what_was_missed_is_said() -> None:
    class Asking(Numbers):
        async def missed(self) -> Piece | None:
            if not self.told:
                self.told = 1
                self.end(b"bye")
            return None

    async def watch() -> None:
        client = Client()
        watcher = Asking(client)
        await watcher.catch_up()
        assert (client.got, watcher.is_live, watcher.is_over) == ([b"bye"], False, True)

    asyncio.run(watch())


def test_a_stream_that_cannot_be_caught_up_ends_and_its_client_comes_back() -> None:
    class Broken(Numbers):
        async def missed(self) -> Piece | None:
            raise ConnectionError

    async def watch() -> None:
        client = Client()
        watcher = Broken(client)
        watcher.is_live = True
        watcher.fall_behind()
        async with asyncio.timeout(5):
            while not watcher.is_over:
                await asyncio.sleep(0)
        assert client.got == [b"retry: 2000\n\n"]

    asyncio.run(watch())


def test_who_left_while_behind_is_forgotten() -> None:
    async def watch() -> None:
        client, watcher = await behind()
        watcher.leave()
        client.reads.set()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)
        assert client.got == []

    asyncio.run(watch())


@pytest.mark.parametrize("door", ["/task-status/{}/", "/api/v1/executions/{}/events"])
def test_a_client_that_stops_reading_holds_up_nobody_and_gets_the_end(
    platform: Platform, visitor: Visitor, door: str
) -> None:
    task_id = visitor.start("torrent_flow")
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", platform.port))
        cookies = "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())
        slow.sendall(
            f"GET {door.format(task_id)} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookies}\r\n\r\n".encode()
        )
        assert list(visitor.watch(task_id))[-1]["state"] == "SUCCESS"  # while the other does not read
        slow.settimeout(30)
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            part = slow.recv(65536)
            assert part
            received += part
    stream = unchunked(received.partition(b"\r\n\r\n")[2])
    *_, last, rest = stream.split(b"\n\n")
    assert rest == b""
    assert last.startswith(b"id: end\n")
    shown = orjson.loads(last.partition(b"data: ")[2])
    assert (shown.get("details") or shown)["final_result"] == stored_snapshot(task_id)["details"][
        "final_result"
    ]
    ids = [part.partition(b"\n")[0] for part in stream.split(b"\n\n") if part.startswith(b"id: ")]
    assert len(set(ids)) == len(ids)


def unchunked(body: bytes) -> bytes:
    found = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        found += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
    return found


def test_what_is_sent_is_encoded_once_for_all() -> None:
    async def nothing(watched: Watched, seen: EventId) -> list[Told]:
        return []

    async def watch() -> None:
        watched = Watched("1")
        watched.snapshot, watched.whole = Snapshot(), True
        watched.begin()
        shown, told = [Client(), Client()], [Client(), Client()]
        viewer, everything = Viewer("somebody"), frozenset[str]()
        for client in shown:
            watched.showing.add(SnapshotWatcher(client.send, viewer, watched))
        for client in told:
            watched.telling.add(
                EventWatcher(client.send, viewer, watched, seen=NO_EVENT, types=everything, since=nothing)
            )
        for watcher in [*watched.showing, *watched.telling]:
            await watcher.catch_up()
        event: Event = {"id": "1-1", "type": "token", "step": "", "text": "word"}
        watched.add(event, EventId(1, 1))
        await asyncio.sleep(0)  # what is read in one go is told in one go
        for first, second in (shown, told):
            assert b"word" in first.got[-1]
            assert first.got[-1] is second.got[-1]

    asyncio.run(watch())


def test_who_is_told_events_misses_no_number_where_there_was_nothing_to_see() -> None:
    async def nothing(watched: Watched, seen: EventId) -> list[Told]:
        return []

    async def watch() -> None:
        watched = Watched("1")
        watched.snapshot, watched.whole = Snapshot(id=EventId(1, 1)), True
        watched.begin()
        client, everything = Client(), frozenset[str]()
        watcher = EventWatcher(
            client.send, Viewer("somebody"), watched, seen=EventId(1, 1), types=everything, since=nothing
        )
        watched.telling.add(watcher)
        await watcher.catch_up()
        watched.jump(lambda: Snapshot(id=EventId(1, 2)))
        watched.add({"id": "1-3", "type": "token", "step": "", "text": "word"}, EventId(1, 3))
        await asyncio.sleep(0)
        assert b"id: 1-2\nevent: snapshot" in client.got[-1]
        assert b"id: 1-3\nevent: token" in client.got[-1]

    asyncio.run(watch())


def test_what_postgresql_tells_has_no_older_number_than_was_told() -> None:
    async def nothing(watched: Watched, seen: EventId) -> list[Told]:
        return []

    async def watch() -> None:
        watched = Watched("1")
        watched.snapshot, watched.whole = Snapshot(id=EventId(1, 0)), True
        watched.begin()
        client, everything = Client(), frozenset[str]()
        watcher = EventWatcher(
            client.send, Viewer("somebody"), watched, seen=EventId(1, 12), types=everything, since=nothing
        )
        watched.telling.add(watcher)
        await watcher.catch_up()
        watched.jump(lambda: Snapshot(id=EventId(1, 0), progress=66))
        await asyncio.sleep(0)
        assert b"id: 1-12\nevent: snapshot" in client.got[-1]

    asyncio.run(watch())


# Asking together


def test_a_lone_question_waits_for_nobody_and_many_are_asked_at_once() -> None:
    asked: list[list[int]] = []

    async def double(numbers: list[int]) -> dict[int, int]:
        asked.append(numbers)
        await asyncio.sleep(0.01)
        return {number: 2 * number for number in numbers if number < 100}

    async def ask() -> None:
        together = Together(double, most=50)
        assert await together(1) == 2
        assert await asyncio.gather(*map(together, range(60))) == [2 * number for number in range(60)]
        assert await together(100) is None

    asyncio.run(ask())
    assert [len(each) for each in asked] == [1, 50, 10, 1]


def test_what_cannot_be_answered_is_raised_to_all_who_asked() -> None:
    async def fail(numbers: list[int]) -> dict[int, int]:
        raise ConnectionError

    async def ask() -> None:
        together = Together(fail)
        answers = await asyncio.gather(together(1), together(2), together(1), return_exceptions=True)
        assert [type(each) for each in answers] == [ConnectionError] * 3

    asyncio.run(ask())


def test_who_asks_while_the_server_ends_does_not_wait_for_ever() -> None:
    async def never(numbers: list[int]) -> dict[int, int]:
        await asyncio.Event().wait()
        return {}

    async def ask() -> None:
        together = Together(never)
        first = asyncio.ensure_future(together(1))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(together(2))
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task(), first, second}:
            task.cancel()
        async with asyncio.timeout(5):
            answers = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(each) for each in answers] == [asyncio.CancelledError] * 2

    asyncio.run(ask())
