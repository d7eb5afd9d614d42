"""A port of this machine that leads to a pod: the listener, and the way of the bytes through the API server."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sweeper.core.errors import InputError, SweeperError
from sweeper.core.text import first_line

_DATA, _ERROR = 0, 1
"""Channels of a forwarded port. The first frame of each repeats the number of the port."""

_CHUNK_BYTES = 65_536

_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}
"""Options that detect a lost API server: seconds, a number of probes, milliseconds. Not every system has all."""


class PortForward:
    """Listens on a free port of 127.0.0.1, and forwards each connection through a stream of its own; a context manager.

    Args:
        open_stream: returns a new stream to a port of a pod: the client's `WSClient`.
        port: the port to listen on; 0: any free one.

    Attributes:
        problem: why the last connection was lost or not made; empty if there is no such reason.

    Raises:
        InputError: the port is not free.
    """

    def __init__(self, open_stream: Callable[[], Any], port: int = 0) -> None:
        self.problem = ""
        self._open_stream = open_stream
        try:
            self._listener = socket.create_server(("127.0.0.1", port))
        except OSError as error:
            raise InputError(f"port {port} is not free ({error.strerror}); choose another") from error
        self._connections: set[socket.socket] = set()
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> PortForward:
        threading.Thread(target=self._accept, name=f"forward-{self.port}", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for opened in (self._listener, *tuple(self._connections)):
            with suppress(OSError):  # ends the wait of its thread, which closes it
                opened.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with self._listener, suppress(OSError):
            while True:
                local, _ = self._listener.accept()
                self._connections.add(local)
                threading.Thread(target=self._serve, args=(local,), name=f"forward-{self.port}", daemon=True).start()

    def _serve(self, local: socket.socket) -> None:
        """Forward one connection until either side closes it."""
        from websocket import WebSocketException

        try:
            with local, closed_at_end(self._open_stream()) as stream:
                self.problem = ""
                self.problem = relay(local, stream.sock)
        except (SweeperError, WebSocketException, OSError) as error:
            self.problem = first_line(error)
        finally:
            self._connections.discard(local)


@contextmanager
def closed_at_end(stream: Any) -> Iterator[Any]:
    """Close a stream when the block ends, and its socket, which the client leaves open if the other side closed it."""
    try:
        yield stream
    finally:
        stream.close()
        stream.sock.shutdown()


def relay(local: socket.socket, web: Any) -> str:
    """Copy bytes both ways until either side closes; return what the node reports as an error, mostly nothing.

    The client has two loops for this, which are not used. When the API server is lost without a word, the thread of its
    `PortForward` ends with a traceback, and this side waits for ever. Its `WSClient` collects a large file in memory.
    One thread copies in both directions, because a TLS connection may not be read and written at the same time.

    Args:
        web: the web socket of a stream.

    Raises:
        WebSocketException, OSError: the API server or the pod is lost.
    """
    from websocket import WebSocketException

    failure = bytearray()
    try:
        _copy(local, web, failure)
    except (WebSocketException, OSError):
        if not failure:  # otherwise the other side was too quick: it is gone before it got an answer to its end
            raise
    return failure.decode(errors="replace").strip()


def _copy(local: socket.socket, web: Any, failure: bytearray) -> None:
    """Copy bytes both ways until either side closes, and the text of an error to `failure`."""
    from websocket import ABNF

    _detect_loss(web.sock)
    begun: set[int] = set()
    with selectors.DefaultSelector() as selector:
        for side in (local, web.sock):
            selector.register(side, selectors.EVENT_READ)
        while True:
            has_more = bool(getattr(web.sock, "pending", int)())  # TLS has read more than it was asked for
            ready = [key.fileobj for key, _ in selector.select(0 if has_more else None)]
            if has_more or web.sock in ready:  # before anything is sent, which fails if the other side has closed
                kind, frame = web.recv_data(control_frame=True)
                if kind == ABNF.OPCODE_CLOSE:
                    return
                if kind == ABNF.OPCODE_BINARY and frame:
                    channel, received = frame[0], frame[1:]
                    if channel not in begun:
                        begun.add(channel)
                    elif channel == _DATA:
                        local.sendall(received)
                    else:
                        failure += received
            if local in ready:
                if not (sent := local.recv(_CHUNK_BYTES)):
                    return
                web.send_binary(bytes([_DATA]) + sent)


def _detect_loss(connection: socket.socket) -> None:
    """Let the system end a connection whose other side does not answer any more."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if (option := getattr(socket, name, None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
