"""The class of gunicorn's web workers: uvicorn, with open streams told to come back when the server stops."""

import socket
import sys
from types import FrameType
from typing import Any

from gunicorn.arbiter import Arbiter
from uvicorn import Server
from uvicorn_worker import UvicornWorker

# A client that is gone without a word (a cable, a phone) is noticed after 20 s: by probes where nothing is sent, and
# by what was sent and is not taken. Linux gives these options of a listening socket to its connections.
GONE = 20
PROBES = 3
TCP_OPTIONS = {
    "TCP_KEEPIDLE": GONE // 4,
    "TCP_KEEPINTVL": GONE // 4,
    "TCP_KEEPCNT": PROBES,
    "TCP_USER_TIMEOUT": GONE * 1000,
}


def notice_gone(listening: socket.socket) -> None:
    """Let connections end whose client does not answer any more, as far as the system can do that."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in TCP_OPTIONS.items():
        if listening.family != socket.AF_UNIX and hasattr(socket, name):
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class StreamingServer(Server):
    """Ends all open streams at once when it is told to stop; uvicorn alone would wait for them to end."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        from config.asgi import application

        application.pump.close()
        super().handle_exit(sig, frame)


class Worker(UvicornWorker):  # type: ignore[misc]  # it has no types
    CONFIG_KWARGS: dict[str, Any] = {
        "loop": "uvloop",
        "http": "httptools",
        "lifespan": "off",
        "proxy_headers": False,  # the setting PROXIES says what to believe
        "server_header": False,
    }

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        for listener in self.sockets:
            notice_gone(listener.sock)
        server = StreamingServer(config=self.config)
        self._install_sigquit_handler()
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
