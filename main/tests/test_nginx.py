"""The platform behind nginx, with TLS, as docs/deploy.md has it."""

import getpass
import os
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import IO, Any, NamedTuple

import httpx
import pytest
import uvicorn
from django.conf import settings

from config.embedded import guarded
from config.processes import commands
from config.tests.waiting import wait_until
from main import docs, pump
from main.access import Viewer
from main.models import Execution
from main.pump import Pump, WatchExecution
from main.tests import foreign_clients
from main.tests.browser import NewContext
from main.tests.foreign_clients import Said
from main.tests.platform import PATIENCE, Platform, Process, Visitor, free_port
from main.tests.programs import make_certificate, program
from main.tests.streams import messages, opened, snapshots, subscribers

# Around the two blocks of the document, so that nginx keeps to one folder.
WHOLE = """
daemon off;
user {user};
pid {folder}/pid;
error_log {folder}/error.log;
{main}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {site}
}}
"""
STREAMS = ("/task-status/{}/", "/api/v1/executions/{}/events", "/api/v1/stream")
# What makes nginx hold a stream back, if that is not forbidden.
COMPRESSING = "gzip on; gzip_types text/event-stream;"


class Web(NamedTuple):
    """A web server that has a proxy before it."""

    process: Process
    port: int


class Proxy(NamedTuple):
    """A running nginx."""

    url: str
    plain_url: str
    certificate: Path
    log: Path

    def visitor(self, **options: Any) -> Visitor:
        """A session that says where its POSTs come from, as browsers do."""
        return Visitor(self.url, verify=self.trusted(), headers={"Origin": self.url}, **options)

    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.certificate)


def blocks(language: str) -> list[str]:
    """Return the blocks of code in the document."""
    page = docs.page("deploy")
    assert page
    return re.findall(rf"^```{language}\n(.*?)^```", page.markdown, re.DOTALL | re.MULTILINE)


def configuration(folder: Path, changes: dict[str, str]) -> str:
    """Return the document's configuration, changed."""
    site, main = blocks("nginx")
    for old, new in changes.items():
        assert old in site, "the document has changed"
        site = site.replace(old, new)
    return WHOLE.format(user=getpass.getuser(), folder=folder, main=main, site=site)


@contextmanager
def nginx(folder: Path, server: int, changes: dict[str, str] | None = None) -> Iterator[Proxy]:
    """Run nginx before the port of a server."""
    port, plain_port = free_port(), free_port()
    key, certificate = make_certificate(folder)
    filled_in = {
        "listen 443": f"listen 127.0.0.1:{port}",
        "listen 80": f"listen 127.0.0.1:{plain_port}",
        "server 127.0.0.1:8000": f"server 127.0.0.1:{server}",
        "example.com;": "localhost;",
        "/etc/letsencrypt/live/example.com/privkey.pem": str(key),
        "/etc/letsencrypt/live/example.com/fullchain.pem": str(certificate),
    }
    file = folder / "nginx.conf"
    file.write_text(configuration(folder, {**filled_in, **(changes or {})}))
    command = [program("nginx"), "-p", str(folder), "-e", "error.log", "-c", str(file)]
    with (folder / "nginx.log").open("wb") as log:
        guard = subprocess.Popen(
            guarded(command, settings.LOCAL_DIR, grace=5), stdin=subprocess.PIPE, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: guard.poll() is not None or is_listening(port))
        assert guard.poll() is None, (folder / "nginx.log").read_text()
        urls = f"https://localhost:{port}", f"http://localhost:{plain_port}"
        yield Proxy(*urls, certificate, folder / "access.log")
    finally:
        assert guard.stdin
        guard.stdin.close()
        guard.wait(PATIENCE)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def web(platform: Platform) -> Iterator[Web]:
    """A web server of the platform, with the settings of one behind a proxy."""
    port = free_port()
    line = commands(bind=f"127.0.0.1:{port}", web=1, io=1, cpu=1)["web"]
    behind = {"HTTPS": "true", "PROXIES": "1", "ALLOWED_HOSTS": "localhost"}
    web = Web(Process("web-behind-nginx", line, platform.environment | behind), port)
    try:
        wait_until(lambda: is_listening(port), PATIENCE)
        yield web
    finally:
        web.process.stop()


@pytest.fixture(scope="module")
def proxy(web: Web, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with nginx(tmp_path_factory.mktemp("nginx"), web.port) as proxy:
        yield proxy


@pytest.fixture(params=["HTTP/2", "HTTP/1.1"])
def visitor(proxy: Proxy, request: pytest.FixtureRequest) -> Iterator[Visitor]:
    with proxy.visitor(http2=request.param == "HTTP/2") as visitor:
        assert visitor.get("/health/").http_version == request.param
        yield visitor


@pytest.fixture
def waiting(visitor: Visitor, tmp_path: Path) -> Iterator[str]:
    """A run that waits at its gate, with nothing new to say."""
    task_id = visitor.start("gate_flow", folder=str(tmp_path))
    wait_until((tmp_path / "wait-1").exists)
    yield task_id
    (tmp_path / "open").touch()


def state(task_id: str) -> str:
    return Execution.objects.get(id=task_id).state


# Streams


def test_what_is_known_comes_at_once_and_the_rest_when_it_is_made(
    visitor: Visitor, waiting: str, tmp_path: Path
) -> None:
    with opened(visitor, waiting) as stream:
        frames = snapshots(stream)
        assert next(frames).snapshot["state"] == "PROGRESS"
        assert state(waiting) == "RUNNING"
        (tmp_path / "open").touch()
        assert [frame.snapshot["state"] for frame in frames][-1] == "SUCCESS"


def test_a_text_is_seen_to_grow(visitor: Visitor) -> None:
    task_id = visitor.start("slow_words_flow", words=40)
    with opened(visitor, task_id) as stream:
        frames = snapshots(stream)
        next(frame for frame in frames if "word3" in frame.fields["data"])
        assert state(task_id) == "RUNNING"
        assert len(list(frames)) > 5


def test_a_stream_asks_not_to_be_held_back_and_that_is_enough(web: Web, tmp_path: Path) -> None:
    with (
        nginx(tmp_path, web.port, {"proxy_buffering off;": COMPRESSING}) as proxy,
        proxy.visitor(http2=True) as visitor,
    ):
        task_id = visitor.start("gate_flow", folder=str(tmp_path))
        with opened(visitor, task_id) as stream:
            next(frame for frame in snapshots(stream) if frame.details.get("partial_result"))
            (tmp_path / "open").touch()


def test_comments_keep_a_silent_stream_open_for_longer_than_nginx_waits(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy.visitor() as visitor:
        task_id = visitor.start("gate_flow", folder=str(tmp_path))
    wait_until((tmp_path / "wait-1").exists)
    monkeypatch.setattr(pump, "KEEP_ALIVE", 0.4)
    monkeypatch.setattr(pump, "LOOK_UP", 0.1)
    monkeypatch.setattr(pump, "LOOK_UP_WITHOUT_REDIS", 0.1)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await Pump().stream(WatchExecution(task_id, Viewer("somebody")), receive, send)

    impatient = {"proxy_read_timeout 60s": "proxy_read_timeout 1s"}
    with served(application) as port:
        with (
            nginx(tmp_path, port, impatient) as other,
            httpx.Client(verify=other.trusted(), http2=True) as client,
            client.stream("GET", f"{other.url}/task-status/") as response,
        ):
            stream = messages(response)
            began = next(stream).at
            silence = takewhile(lambda message: message.at < began + 2, stream)
            assert [set(message.fields) for message in silence][-3:] == [{""}] * 3
        wait_until(lambda: subscribers(task_id) == 0)
    (tmp_path / "open").touch()


@contextmanager
def served(application: Callable[[Any, Any, Any], Awaitable[None]]) -> Iterator[int]:
    """Serve an application from this process; return the port."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(application, port=port, lifespan="off", log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield port
    finally:
        server.should_exit = server.force_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_who_leaves_is_noticed_by_the_server(proxy: Proxy, visitor: Visitor, waiting: str) -> None:
    leaver = proxy.visitor(http2=visitor.get("/health/").http_version == "HTTP/2")
    leaver.cookies = visitor.cookies
    with leaver, opened(leaver, waiting) as stream:
        next(snapshots(stream))
        assert subscribers(waiting) == 1
    wait_until(lambda: subscribers(waiting) == 0)


# A deploy


def test_watchers_are_asked_to_come_back_until_a_web_server_answers(
    web: Web, visitor: Visitor, waiting: str, tmp_path: Path
) -> None:
    with opened(visitor, waiting) as stream:
        next(snapshots(stream))
        web.process.stop()
        try:
            assert set(list(stream)[-1].fields) == {"retry"}
            for path in STREAMS:
                answer = visitor.get(path.format(waiting))
                assert (answer.status_code, answer.text) == (200, "retry: 2000\n\n")
                assert answer.headers["content-type"] == "text/event-stream"
            assert visitor.get("/").status_code == 502
        finally:
            web.process.restart()
            wait_until(lambda: is_listening(web.port), PATIENCE)
    with opened(visitor, waiting) as stream:
        assert next(snapshots(stream)).details["partial_result"] == "Waiting"


def test_chromium_comes_back_by_itself(
    web: Web, proxy: Proxy, new_context: NewContext, tmp_path: Path
) -> None:
    client = foreign_clients.chromium(new_context(ignore_https_errors=True).new_page())
    with proxy.visitor() as visitor:
        task_id = visitor.start("thirds_flow", folder=str(tmp_path))
        seen: list[Said] = []
        for said in client(visitor, f"/api/v1/executions/{task_id}/events"):
            seen.append(said)
            if "word9 " in said.data and not (tmp_path / "1").exists():
                web.process.stop()
                (tmp_path / "1").touch()
                asked_in_vain = f'{task_id}/events HTTP/2.0" 200 13 '  # the length of the `retry`
                wait_until(partial(is_logged, proxy, asked_in_vain))
                web.process.restart()
            if "word19 " in said.data:
                (tmp_path / "2").touch()
            if said.id == "end":
                break
    assert [said.id for said in seen] == [f"1-{number}" for number in range(1, len(seen))] + ["end"]


def is_logged(proxy: Proxy, text: str) -> bool:
    return text in proxy.log.read_text()


def test_a_stream_that_chromium_closes_is_closed_at_the_server(
    proxy: Proxy, new_context: NewContext, tmp_path: Path
) -> None:
    """Over HTTP/2 the connection stays, for all that is open beside it."""
    page = new_context(ignore_https_errors=True).new_page()
    with proxy.visitor() as visitor:
        task_id = visitor.start("gate_flow", folder=str(tmp_path))
        messages = foreign_clients.chromium(page)(visitor, f"/task-status/{task_id}/")
        next(messages)
        assert page.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol") == "h2"
        assert subscribers(task_id) == 1
        page.evaluate("source.close()")
        wait_until(lambda: subscribers(task_id) == 0)
    (tmp_path / "open").touch()


# TLS


def test_plain_http_is_sent_to_https_and_nowhere_else(proxy: Proxy) -> None:
    answer = httpx.get(f"{proxy.plain_url}/docs/?page=1")
    assert answer.status_code == 301
    assert answer.headers["location"] == "https://localhost/docs/?page=1"
    with proxy.visitor() as visitor:
        page = visitor.get("/docs/")
    assert page.status_code == 200
    assert "max-age" in page.headers["strict-transport-security"]
    assert all(cookie.secure for cookie in visitor.cookies.jar)


# Seeing it


def test_the_document_shows_how_to_see_a_proxy_that_buffers(web: Web, proxy: Proxy, tmp_path: Path) -> None:
    buffering = {"proxy_buffering off;": f"{COMPRESSING} proxy_ignore_headers X-Accel-Buffering;"}
    with nginx(tmp_path, web.port, buffering) as other, proxy.visitor() as visitor:
        task_id = visitor.start("gate_flow", folder=str(tmp_path))
        wait_until((tmp_path / "wait-1").exists)
        with looking(proxy, visitor, task_id) as streamed, looking(other, visitor, task_id) as buffered:
            found, lost = streamed.readline(), buffered.readline()
            shown = next(line for line in streamed if "data: " in line)
            (tmp_path / "open").touch()
            rest = streamed.read()
    size, first = re.findall(r"HTTP/2 200: (\d+) bytes, the first after ([\d.]+) s\n", found)[0]
    assert int(size) > 300
    assert 0 < float(first) < 1
    assert ": 0 bytes" in lost
    assert re.fullmatch(r'\d\d:\d\d:\d\d data: {"state":"PROGRESS".*\n', shown)
    assert "id: end" in rest


@contextmanager
def looking(proxy: Proxy, visitor: Visitor, task_id: str) -> Iterator[IO[str]]:
    """Look at a run with the commands of the document, and give what they print."""
    [look] = [block for block in blocks("sh") if "size_download" in block]
    jar = proxy.log.with_name("cookies")
    cookies = visitor.cookies.items()
    jar.write_text("".join(f"localhost\tFALSE\t/\tTRUE\t0\t{name}\t{value}\n" for name, value in cookies))
    variables = {
        "url": proxy.url,
        "jar": str(jar),
        "task_id": task_id,
        "CURL_CA_BUNDLE": str(proxy.certificate),
    }
    environment = {**os.environ, **variables}
    with subprocess.Popen(["sh", "-c", look], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process.stdout
