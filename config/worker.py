"""The class of gunicorn's web workers: uvicorn, with open streams told to come back when the server stops."""

import sys
from types import FrameType
from typing import Any

from gunicorn.arbiter import Arbiter
from uvicorn import Server
from uvicorn_worker import UvicornWorker


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
        server = StreamingServer(config=self.config)
        self._install_sigquit_handler()
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
