"""What stands between the product and the world: proxies that do harm, a provider and a mail server that count."""

import asyncio
import smtplib
from collections.abc import Awaitable, Callable, Iterator

import httpx
import pytest

from chaos.mail_server import Mail, MailServer
from chaos.provider import Provider, marks_in
from chaos.proxy import Mode, Proxy, closed

ASKED = {"execution": "1", "step": "Pay", "attempt": 1, "seconds": 0}


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


def ask(provider: Provider, path: str, **headers: str) -> str:
    answer = httpx.post(f"{provider.url}{path}", json=ASKED, headers=headers)
    return str(answer.raise_for_status().json()["mark"])


def test_every_call_gets_a_value_of_its_own(provider: Provider) -> None:
    assert ask(provider, "/work") != ask(provider, "/work")
    assert len({call.value for call in provider.calls}) == 2


def test_an_effect_is_applied_once_for_a_key(provider: Provider) -> None:
    first = ask(provider, "/effects", **{"Idempotency-Key": "1:Pay"})
    assert ask(provider, "/effects", **{"Idempotency-Key": "1:Pay"}) == first
    assert ask(provider, "/effects", **{"Idempotency-Key": "1:Pay again"}) != first
    assert [(call.key, call.applied) for call in provider.calls] == [
        ("1:Pay", True),
        ("1:Pay", False),
        ("1:Pay again", True),
    ]


def test_a_truncated_answer_is_an_error_after_the_effect(provider: Provider) -> None:
    provider.truncating = True
    with pytest.raises(httpx.RemoteProtocolError):
        ask(provider, "/effects", **{"Idempotency-Key": "1:Pay"})
    provider.truncating = False
    assert (
        marks_in(ask(provider, "/effects", **{"Idempotency-Key": "1:Pay"}))[0].value
        == provider.calls[0].value
    )
    assert [call.applied for call in provider.calls] == [True, False]


Talk = Callable[[Proxy], Awaitable[None]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(100):
            writer.write(data)
    finally:
        await closed(writer)


async def through_proxy(talk: Talk) -> None:
    """Talk to a proxy before a server that says everything again."""
    heard = set()

    def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.add(asyncio.create_task(echo(reader, writer)))

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Proxy(lambda: asyncio.open_connection("127.0.0.1", port)) as proxy:
        await talk(proxy)
    await asyncio.gather(*heard, return_exceptions=True)


async def said(proxy: Proxy) -> bytes:
    """Return what comes back within a moment on a new connection; nothing where it is broken."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(b"hello")
        return await asyncio.wait_for(reader.read(100), 0.6)
    except ConnectionError:
        return b""
    finally:
        await closed(writer)


def test_a_proxy_passes_on_slows_and_cuts() -> None:
    async def talk(proxy: Proxy) -> None:
        assert await said(proxy) == b"hello"
        proxy.become(Mode.SLOW)
        assert await said(proxy) == b"hello"
        proxy.become(Mode.CUT)
        assert await said(proxy) == b""
        proxy.become(Mode.PASS)
        assert await said(proxy) == b"hello"

    asyncio.run(through_proxy(talk))


def test_a_hung_connection_goes_on_where_it_was() -> None:
    async def talk(proxy: Proxy) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        proxy.become(Mode.HUNG)
        writer.write(b"hello")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(100), 0.2)
        proxy.become(Mode.PASS)
        assert await asyncio.wait_for(reader.read(100), 1) == b"hello"
        await closed(writer)

    asyncio.run(through_proxy(talk))


def test_a_cut_breaks_what_is_open() -> None:
    async def talk(proxy: Proxy) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"hello")
        assert await reader.read(100) == b"hello"
        proxy.become(Mode.CUT)
        assert await asyncio.wait_for(reader.read(100), 1) == b""
        await closed(writer)

    asyncio.run(through_proxy(talk))


ID = "0b0e0c5e-0000-4000-8000-000000000001"
TEXT = f"Message-ID: <1@example.com>\r\nSubject: done\r\n\r\nOpen http://example.com/executions/{ID}/ now\r\n"


def post(port: int) -> str:
    """Send a mail; return what went wrong."""
    try:
        with smtplib.SMTP("127.0.0.1", port, timeout=0.5) as connection:
            connection.sendmail("from@example.com", ["alice@example.com"], TEXT)
    except (smtplib.SMTPServerDisconnected, TimeoutError) as error:
        return type(error).__name__
    return ""


def posted(flag: str = "") -> tuple[str, list[Mail]]:
    """Send a mail to a server that does this harm; return what went wrong, and what the server has."""

    async def talk() -> tuple[str, list[Mail]]:
        async with MailServer() as server:
            if flag:
                setattr(server, flag, True)
            said = await asyncio.to_thread(post, server.port)
            for each in ("holding", "silent"):
                setattr(server, each, False)
            return said, server.mails

    return asyncio.run(talk())


def test_a_mail_is_remembered_with_the_execution_that_it_links_to() -> None:
    said, mails = posted()
    assert said == ""
    assert [(mail.to, mail.message_id, mail.execution) for mail in mails] == [
        ("alice@example.com", "<1@example.com>", ID)
    ]


def test_a_mail_is_there_also_where_its_answer_is_not() -> None:
    for flag in ("dropping", "silent"):
        said, mails = posted(flag)
        assert said
        assert len(mails) == 1


def test_a_server_that_does_not_begin_has_nothing() -> None:
    said, mails = posted("holding")
    assert said
    assert mails == []
