"""Connections of tests: free ports, and a proxy that loses connections."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack, suppress


def free_ports(count: int) -> list[int]:
    """Return different ports of 127.0.0.1 that nothing uses."""
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in sockets]


class Proxy:
    """A TCP proxy to a port of 127.0.0.1, for the time of a `with` block.

    Attributes:
        is_refusing: new connections are closed at once.
    """

    def __init__(self, target_port: int) -> None:
        self.is_refusing = False
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._connections: list[socket.socket] = []

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_refusing = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()

    def drop(self) -> None:
        """Cut all connections."""
        while self._connections:
            _cut(self._connections.pop())

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                if self.is_refusing:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._target_port))
                self._connections += [client, server]
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=_forward, args=ends, daemon=True).start()


def _forward(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        _cut(end)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
