"""A node as far as port forwarding needs one: the web socket of a kubelet, in front of a pod that a test plays."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

PROTOCOL, PORT = "v4.channel.k8s.io", 5432
HOUR = timedelta(hours=1)


class Node:
    """Forwards ports as a kubelet does: channel 0 has data, channel 1 the text of an error.

    Attributes:
        serve: what the pod does with a connection.
        error: what the node reports when the connection ends.
        asked: the paths of the requests.
    """

    def __init__(self, folder: Path) -> None:
        self.serve: Callable[[socket.socket], Any] = lambda connection: None
        self.error = b""
        self.asked: list[str] = []
        make_certificate(folder)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_until_complete, args=(self._run(),), daemon=True).start()
        while not self.asked:  # until it answers
            time.sleep(0.01)
        self.asked.clear()

    def open_stream(self) -> Any:
        """Return what `kubernetes.stream.stream` returns for a forwarded port."""
        from kubernetes.client import Configuration
        from kubernetes.stream.ws_client import WSClient

        settings = Configuration(host=f"https://127.0.0.1:{self.port}")
        settings.verify_ssl = False
        return WSClient(settings, f"wss://127.0.0.1:{self.port}/portForward/lab/db", {}, False, binary=True)

    async def _run(self) -> None:
        from aiohttp import web

        application = web.Application()
        application.router.add_get("/portForward/{path:.*}", self._forward)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.SockSite(runner, self._listener, ssl_context=self._tls).start()
        self.asked.append("started")
        await asyncio.Event().wait()

    async def _forward(self, request: Any) -> Any:
        from aiohttp import web

        self.asked.append(request.path)
        answer = web.WebSocketResponse(protocols=[PROTOCOL])
        await answer.prepare(request)
        for channel in (b"\0", b"\1"):
            await answer.send_bytes(channel + PORT.to_bytes(2, "little"))
        ours, pods = socket.socketpair()
        threading.Thread(target=self._serve, args=(pods,), daemon=True).start()
        reader, writer = await asyncio.open_connection(sock=ours)

        async def send() -> None:
            with suppress(OSError):  # the pod, or the client, is gone
                while data := await reader.read(16_384):
                    await answer.send_bytes(b"\0" + data)
            with suppress(OSError):
                if self.error:
                    await answer.send_bytes(b"\1" + self.error)
                await answer.close()

        sending = asyncio.ensure_future(send())
        async for message in answer:
            with suppress(OSError):
                writer.write(message.data[1:])
                await writer.drain()
        writer.close()
        await sending
        return answer

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            self.serve(connection)


def make_certificate(folder: Path) -> None:
    """Write a key and its certificate, signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string("CN=node")
    now = datetime.now(UTC)
    unsigned = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + HOUR)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*form))
    (folder / "cert.pem").write_bytes(unsigned.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
