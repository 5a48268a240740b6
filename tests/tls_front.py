"""A TLS end in front of a server that has none: to a client it is that server with TLS turned on.

The binaries in the wheels of Redis and Postgres that the tests run are built without TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from pathlib import Path

POSTGRES_SSL_REQUEST = bytes.fromhex("00000008 04d2162f")


class TlsFront:
    """Listens on a loopback port until `close`.

    Args:
        folder: `server.pem` and `server.key`, as `deploy/tls/make-certificates.sh` leaves them.
        upstream: a TCP port of this machine, or the path of a unix socket.
        is_postgres: a client of Postgres first asks in the clear whether there is TLS,
        answer: and is told: S for yes, N for no.
    """

    def __init__(self, folder: Path, upstream: int | Path, *, is_postgres: bool = False, answer: bytes = b"S") -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "server.pem", folder / "server.key")
        self._upstream = upstream
        self._is_postgres = is_postgres
        self._answer = answer
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tls-front")
        self._thread.start()
        tls = None if is_postgres else self._context
        server = asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self._server = asyncio.run_coroutine_threadsafe(server, self._loop).result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """End all connections."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            if self._is_postgres:
                assert await reader.readexactly(8) == POSTGRES_SSL_REQUEST, "a client that asks for no TLS"
                writer.write(self._answer)
                if self._answer == b"N":
                    return
                await writer.start_tls(self._context)
            if isinstance(self._upstream, Path):
                inner = await asyncio.open_unix_connection(self._upstream)
            else:
                inner = await asyncio.open_connection("127.0.0.1", self._upstream)
            await asyncio.gather(_pump(reader, inner[1]), _pump(inner[0], writer))
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
