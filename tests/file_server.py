"""A web server on loopback for files that are fetched, and archives for it to serve."""

from __future__ import annotations

import io
import tarfile
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

DEADLINE_S = 60


class Server:
    """Serves `files`. `cut`: of these names so many answers end in the middle; `gate` holds all answers back."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        self.cut: Counter[str] = Counter()
        self.gate = threading.Event()
        self.gate.set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.partition("?")[0].strip("/")
                server.asked[name] += 1
                if name not in server.files:
                    self.send_error(404)
                    return
                content = server.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])
                server.gate.wait(DEADLINE_S)
                if server.cut[name] > 0:
                    server.cut[name] -= 1
                else:
                    self.wfile.write(content[len(content) // 2 :])

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{name}"

    def close(self) -> None:
        self.gate.set()
        self.server.shutdown()
        self.thread.join(DEADLINE_S)
        self.server.server_close()


def images() -> dict[str, bytes]:
    """A folder of images, its files by their paths."""
    files = {}
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
        files |= {f"{part}/{name}/{n}.png": buffer.getvalue() for part in ("train", "test") for n in range(4)}
    return files


def tar(files: dict[str, bytes], mode: str = "w:gz", spoil: Callable[[tarfile.TarInfo], None] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as packed:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
        if spoil is not None:
            member = tarfile.TarInfo("train/red/odd.png")
            spoil(member)
            packed.addfile(member)
    return buffer.getvalue()
