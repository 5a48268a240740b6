"""A link between a client and a server, which tests cut, hang and heal: a TCP port that carries bytes to another."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any


class Link:
    """Listens on a loopback port and carries what comes to `upstream`, until `close`.

    Args:
        upstream: a TCP port of this machine, or the path of a unix socket.
    """

    def __init__(self, upstream: int | Path) -> None:
        self._upstream = upstream
        self._is_cut = False
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link")
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def reset(self) -> None:
        """Reset all connections; new ones are taken."""
        self._call(self._reset())

    def cut(self) -> None:
        """Reset all connections, and every new one at once."""
        self._is_cut = True
        self.reset()

    def hang(self) -> None:
        """Carry nothing more; nobody is told."""
        self._loop.call_soon_threadsafe(self._flows.clear)

    def heal(self) -> None:
        """Carry everything again, also what was sent meanwhile."""
        self._is_cut = False
        self._loop.call_soon_threadsafe(self._flows.set)

    def close(self) -> None:
        """End all connections."""
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        with contextlib.suppress(OSError):
            if isinstance(self._upstream, Path):
                inner_reader, inner = await asyncio.open_unix_connection(self._upstream)
            else:
                inner_reader, inner = await asyncio.open_connection("127.0.0.1", self._upstream)
            ends = {writer, inner}
            self._writers |= ends
            try:
                await asyncio.gather(self._pump(reader, inner), self._pump(inner_reader, writer))
            finally:
                self._writers -= ends
                for end in ends:
                    end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one direction to its end, which ends the other direction too."""
        try:
            while data := await reader.read(1 << 16):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
