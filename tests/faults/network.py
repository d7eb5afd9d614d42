"""A TCP relay between sweeper and a server that can be slow, hang, answer with errors, or lose answers."""

from __future__ import annotations

import random
import socket
import threading
import time
from contextlib import suppress

_ERROR = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Network:
    """Relay of TCP connections to a port.

    Attributes:
        mood: what happens to requests: "passes", "slow" (5 s each), "hangs", "errors" (503), or "loses" (the answers of
            three in ten).
        deaf_to: the beginning of a request; the answer to the next such request is lost, whatever the mood.
        lost: answers that were lost so far.
    """

    def __init__(self, port: int, seed: int, *, host: str = "127.0.0.1") -> None:
        self.mood = "passes"
        self.deaf_to: bytes | None = None
        self.lost = 0
        self._random = random.Random(seed)
        self._host, self._port = host, port
        self._deaf: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection((self._host, self._port)) as server:
            threading.Thread(target=self._answer, args=(server, client), daemon=True).start()
            while request := _receive(client):
                if self.mood == "slow":
                    time.sleep(5)
                elif self.mood == "hangs":
                    continue
                elif self.mood == "errors":
                    client.sendall(_ERROR)
                    return
                if self.deaf_to is not None and request.startswith(self.deaf_to):
                    self._deaf.add(server)
                server.sendall(request)
            server.shutdown(socket.SHUT_RDWR)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        """Relay the server's answers. When an answer is lost, the server has still done what was asked."""
        while answer := _receive(server):
            if server in self._deaf or (self.mood == "loses" and self._random.random() < 0.3):
                self._deaf.discard(server)
                self.lost += 1
                answer = b""
            with suppress(OSError):  # the client may have disconnected
                client.sendall(answer) if answer else client.shutdown(socket.SHUT_RDWR)


def _receive(source: socket.socket) -> bytes:
    try:
        return source.recv(1 << 20)
    except OSError:
        return b""
