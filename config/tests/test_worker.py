"""The class of gunicorn's web workers."""

import socket

from config.worker import GONE, notice_gone


def test_connections_inherit_how_a_client_that_is_gone_is_noticed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        notice_gone(listening)
        with socket.create_connection(listening.getsockname()):
            connection, _ = listening.accept()
            with connection:
                assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                idle = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
                probes = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
                between = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
                untaken = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert idle + probes * between <= GONE
    assert untaken <= GONE * 1000
