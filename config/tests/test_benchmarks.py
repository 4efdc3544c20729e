"""What benchmarks compute without measuring anything."""

import asyncio
import smtplib
from typing import Any
from xml.etree import ElementTree

import orjson
import pytest

from benchmarks.bare import chunked
from benchmarks.baseline import worse
from benchmarks.forwarder import Subscription, Watchers
from benchmarks.growth_plot import Panel, draw
from benchmarks.mail_sink import running_sink
from benchmarks.numbers import LostError, Numbers, check
from benchmarks.product import free_port
from benchmarks.results import Beside, Row, at_least, at_most
from benchmarks.streams import CountingWatcher, Message, Tally, parse

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
TOKEN = chunked(b'id: 1-5\nevent: token\ndata: {"step":"","text":"5:123 "}\n\n')


def token(text: str) -> Message:
    return Message("1-1", "token", orjson.dumps({"step": "", "text": text}))


def snapshot(text: str) -> Message:
    return Message("1-1", "snapshot", orjson.dumps({"details": {"partial_result": text}}))


async def saw(*messages: Message) -> Numbers:
    numbers = Numbers()
    for message in messages:
        numbers.hear(message)
    return numbers


def test_a_message_is_read() -> None:
    assert parse(b'id: 1-5\nevent: token\ndata: {"text":"a: b"}') == ("1-5", "token", b'{"text":"a: b"}', 0)
    assert parse(b"retry: 2500").retry == 2500
    assert parse(b":") == ("", "", b"", 0)


@pytest.mark.parametrize("size", [1, 7, 40, 1000])
def test_tokens_are_counted_wherever_the_pieces_end(size: int) -> None:
    async def count() -> int:
        tally = Tally()
        watcher = CountingWatcher(b"", tally)
        sent = HEAD + chunked(b"retry: 2500\n\n") + 3 * TOKEN
        for begin in range(0, len(sent), size):
            watcher.data_received(sent[begin : begin + size])
        return tally.tokens

    assert asyncio.run(count()) == 3


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_forwarder_reads_what_redis_publishes(size: int) -> None:
    sent: list[bytes] = []

    class Everybody(Watchers):
        def send(self, message: bytes) -> None:
            sent.append(message)

    told = b"*3\r\n$9\r\nsubscribe\r\n$4\r\nbare\r\n:1\r\n"
    told += b"".join(
        b"*3\r\n$7\r\nmessage\r\n$4\r\nbare\r\n$%d\r\n%b\r\n" % (len(TOKEN), TOKEN) for _ in range(2)
    )
    subscription = Subscription("bare", Everybody())
    for begin in range(0, len(told), size):
        subscription.data_received(told[begin : begin + size])
    assert sent == [TOKEN, TOKEN]


def test_what_is_lost_and_what_comes_twice_is_counted() -> None:
    numbers = asyncio.run(saw(token("1 2 "), token("2 "), token("5:99 6:99 ")))
    assert (numbers.twice, numbers.lost, numbers.next) == (1, 2, 7)
    with pytest.raises(LostError):
        check([numbers], 6)


def test_a_snapshot_shows_what_was_not_told_one_by_one() -> None:
    numbers = asyncio.run(saw(token("1 "), snapshot("1 2 3 "), token("4 ")))
    check([numbers], 4)
    cut = asyncio.run(saw(snapshot("… 17 118 119 "), token("120 ")))
    check([cut], 120)


def row(ratio: float, **aims: Any) -> Row:
    return Row("figure", ratio, "ms", Beside("bound", 1.0), **aims)


@pytest.mark.parametrize(
    ("now", "share"),
    [
        (row(1.19), None),
        (row(1.5), 0.5),
        (row(0.5), None),
        (row(0.5, aim=at_least(1)), 1.0),
        (row(1.5, ratio_aim=at_most(2)), 0.5),
    ],
)
def test_what_is_worse_than_the_baseline_is_told(now: Row, share: float | None) -> None:
    assert [each.share for each in worse([now], {"figure": 1.0})] == ([] if share is None else [share])


def test_what_the_baseline_does_not_know_is_not_compared() -> None:
    assert worse([row(9.0)], {}) == []
    assert worse([Row("figure", 9.0, "ms")], {"figure": 1.0}) == []


def test_the_drawing_is_svg_with_every_value() -> None:
    svg = draw([Panel("One <event>", "µs", "executions", [(1, 12.3), (1000, 45.6)])])
    drawn = ElementTree.fromstring(svg)  # noqa: S314 our own
    texts = {text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {"One <event>", "12.3", "45.6", "1,000"} <= texts


def test_the_sink_takes_every_mail_and_counts_it() -> None:
    def send(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=5) as connection:
            for body in ("one", ".\r\n..\r\n", "x" * 200_000, "DATA\r\nQUIT"):
                refused = connection.sendmail("a@example.com", ["b@example.com"], f"Subject: s\r\n\r\n{body}")
                assert refused == {}

    async def count() -> int:
        port = free_port()
        async with running_sink(port) as sink:
            await asyncio.to_thread(send, port)
        return sink.taken

    assert asyncio.run(count()) == 4
