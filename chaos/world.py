"""Everything that runs: databases, provider and mail server behind proxies, the product's processes, their keepers."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.product import PROJECT, environment, free_port
from chaos.client import Client
from chaos.mail_server import EMAIL_TIMEOUT, MailServer
from chaos.prepare import ADDRESS, PASSWORD
from chaos.processes import Process, Shape, command_lines
from chaos.provider import Provider
from chaos.proxy import Proxy, Way
from chaos.records import Records
from config import embedded
from config.servers import Server, Servers

# Seconds that everything gets to start.
START_PATIENCE = 90.0
# MiB that a cpu worker's child may take.
CPU_MEMORY_MB = 640


class NotStartedError(Exception):
    """The product did not start; the message has the last lines of its processes."""


@dataclass(frozen=True)
class Place:
    """Where a world is: running databases in a folder, and which of theirs are its own."""

    local_dir: Path
    servers: Servers
    database: str = "api_ctm"
    redis_number: int = 0

    @property
    def sockets(self) -> str:
        return str(embedded.postgres_sockets(self.local_dir))

    @property
    def logs(self) -> Path:
        return self.local_dir / f"logs-{self.database}"


@dataclass
class World:
    """A running product that may come to harm."""

    place: Place
    shape: Shape
    proxies: dict[str, Proxy]
    provider: Provider
    mail: MailServer
    processes: dict[str, Process]
    client: Client
    person: Client
    records: Records
    version: int = 1
    _reviving: asyncio.Lock = field(default_factory=asyncio.Lock)

    def of_kind(self, kind: str) -> list[Process]:
        return [process for process in self.processes.values() if process.kind == kind]

    def url(self, web: Process) -> str:
        return self.client.urls[self.of_kind("web").index(web)]

    def server(self, name: str) -> Server:
        return next(each for each in self.place.servers.servers if each.name == name)

    async def revive(self, name: str) -> None:
        """Start a database again that ended, and wait until it answers."""
        async with self._reviving:
            await asyncio.to_thread(self.server(name).wait_until_stopped)
            await asyncio.to_thread(self.place.servers.revive)
            await asyncio.to_thread(self.server(name).wait_until_ready)


@asynccontextmanager
async def running_world(place: Place, shape: Shape, broken: str = "") -> AsyncIterator[World]:
    """Start everything, wait until all of it works, and end it with the block.

    `broken` is a module of chaos/broken that every worker loads: a build that lacks a guarantee.
    """
    place.logs.mkdir(exist_ok=True)
    async with AsyncExitStack() as stack:
        provider = stack.enter_context(Provider())
        mail = await stack.enter_async_context(MailServer())
        proxies = {
            name: await stack.enter_async_context(Proxy(way))
            for name, way in ways(place, provider, mail).items()
        }
        ports = [free_port() for _ in range(shape.web)]
        settings = world_environment(place, proxies, broken)
        processes = {
            name: Process(name, line, place.local_dir, place.logs / f"{name}.log", settings.copy())
            for name, line in command_lines(shape, ports).items()
        }
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        client, person = Client(urls), Client(urls)
        stack.push_async_callback(client.close)
        stack.push_async_callback(person.close)
        records = Records(place.sockets, place.database)
        world = World(place, shape, proxies, provider, mail, processes, client, person, records)
        await stack.enter_async_context(kept(list(processes.values())))
        await wait_until_ready(world)
        yield world


def ways(place: Place, provider: Provider, mail: MailServer) -> dict[str, Way]:
    """Return by name how each proxy reaches what is behind it."""
    postgres = f"{place.sockets}/.s.PGSQL.{embedded.PORT}"
    redis = embedded.redis_socket(place.local_dir)
    port = int(provider.url.rpartition(":")[2])
    return {
        "postgres": lambda: asyncio.open_unix_connection(postgres),
        "redis": lambda: asyncio.open_unix_connection(redis),
        "provider": lambda: asyncio.open_connection("127.0.0.1", port),
        "mail": lambda: asyncio.open_connection("127.0.0.1", mail.port),
    }


def world_environment(place: Place, proxies: dict[str, Proxy], broken: str = "") -> dict[str, str]:
    """Return the environment of the product's processes, which reach everything through the proxies."""
    provider = f"http://127.0.0.1:{proxies['provider'].port}"
    postgres = f"postgres://{embedded.USER}@127.0.0.1:{proxies['postgres'].port}/{place.database}"
    flows = ["chaos.flows", *([f"chaos.broken.{broken}"] if broken else [])]
    return environment(place.local_dir) | {
        "DATABASE_URL": f"{postgres}?sslmode=disable&gssencmode=disable",
        "REDIS_URL": f"redis://127.0.0.1:{proxies['redis'].port}/{place.redis_number}",
        "FLOW_MODULES": ",".join(flows),
        "GEMINI_API_KEY": "key-of-the-chaos",
        "GOOGLE_GEMINI_BASE_URL": provider,
        "PROVIDER_TIMEOUT": "10",
        "EMAIL_URL": f"smtp://127.0.0.1:{proxies['mail'].port}",
        "EMAIL_TIMEOUT": str(EMAIL_TIMEOUT),
        "MAIL_RETRY_SECONDS": "0.5",
        "MAILS_PER_RECEIVER": "0",  # every execution has a mail of its own
        "PUBLIC_URL": "http://chaos.example.com",
        "CPU_MEMORY_MB": str(CPU_MEMORY_MB),
        "CHAOS_PROVIDER": provider,
        "CHAOS_VERSION": "1",
        "PYTHONWARNINGS": "ignore:You're running the worker with superuser",
    }


@asynccontextmanager
async def kept(processes: list[Process]) -> AsyncIterator[None]:
    """Keep the processes running for the length of the block."""
    keepers = [asyncio.create_task(process.keep()) for process in processes]
    try:
        yield
    finally:
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)


async def wait_until_ready(world: World) -> None:
    """Wait until the web servers answer, and every worker has said that it is there."""
    began = time.monotonic()
    while not await is_ready(world, time.monotonic() - began):
        if time.monotonic() - began > START_PATIENCE:
            raise NotStartedError("\n".join(last_words(each.log) for each in world.processes.values()))
        await asyncio.sleep(0.2)
    await world.client.arrive()
    await world.person.sign_in(ADDRESS, PASSWORD)


async def is_ready(world: World, seconds: float) -> bool:
    return (
        await world.client.are_healthy() and await world.records.count_workers(seconds) >= world.shape.workers
    )


def last_words(log: Path) -> str:
    return "\n".join([f"{log.stem}:", *log.read_text(errors="replace").splitlines()[-12:]])


async def prepare_database(place: Place) -> None:
    """Make the tables, the person who signs in, and the audit."""
    settings = environment(place.local_dir) | {"POSTGRES_DB": place.database}
    command = [sys.executable, "-m", "chaos.prepare"]
    process = await asyncio.create_subprocess_exec(*command, cwd=PROJECT, env=settings)
    if await process.wait():
        raise NotStartedError("The database could not be migrated.")
    await Records(place.sockets, place.database).install_audit()
