"""Hosts for tests: network namespaces on a switch of their own, one with Redis and a way to Postgres, and their links.

Needs root and `ip`. Nothing of it touches the network of the machine itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dljobs.service.redis_binary import find_redis_binary
from tests.redis_server import PASSWORD

NETWORK = "10.213.77."
SERVERS = "servers"
POSTGRES_PORT, REDIS_PORT = 5432, 6379
# Connections to a TCP port go on to a unix socket, which is the same in all namespaces.
_FORWARDER = """
import asyncio, sys

async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()

async def accept(reader, writer):
    there_reader, there_writer = await asyncio.open_unix_connection(sys.argv[3])
    await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))

async def main():
    server = await asyncio.start_server(accept, sys.argv[1], int(sys.argv[2]))
    await server.serve_forever()

asyncio.run(main())
"""


@dataclass
class Hosts:
    """Some hosts on one switch."""

    names: Sequence[str]
    _prefix: str = field(default_factory=lambda: f"dj{os.getpid()}")

    def address(self, name: str) -> str:
        """Of the host."""
        return f"{NETWORK}{1 + self.names.index(name)}"

    def enter(self, name: str) -> list[str]:
        """What a command line begins with to run there."""
        return ["ip", "netns", "exec", self._space(name)]

    def cut(self, name: str) -> None:
        """Pull the host's cable: packets vanish, and nobody is told."""
        _run("ip", "-n", self._space("switch"), "link", "set", self._port(name), "nomaster")

    def heal(self, name: str) -> None:
        """Plug it in again."""
        _run("ip", "-n", self._space("switch"), "link", "set", self._port(name), "master", "switch")

    def disturb(self, name: str, *disturbance: str) -> bool:
        """Let the host's link lose and delay packets, as `tc … netem` says it; False if this kernel cannot."""
        try:
            _run("tc", "-n", self._space(name), "qdisc", "replace", "dev", "eth0", "root", "netem", *disturbance)
        except subprocess.CalledProcessError:
            return False
        return True

    def calm(self, name: str) -> None:
        """End what `disturb` began."""
        _run("tc", "-n", self._space(name), "qdisc", "del", "dev", "eth0", "root")

    def make(self) -> None:
        """Make namespaces, switch and links."""
        switch = self._space("switch")
        _run("ip", "netns", "add", switch)
        _run("ip", "-n", switch, "link", "add", "switch", "type", "bridge")
        _run("ip", "-n", switch, "link", "set", "switch", "up")
        for name in self.names:
            space, port = self._space(name), self._port(name)
            _run("ip", "netns", "add", space)
            _run("ip", "-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", switch)
            _run("ip", "-n", switch, "link", "set", port, "master", "switch", "up")
            _run("ip", "-n", space, "address", "add", f"{self.address(name)}/24", "dev", "eth0")
            for interface in ("lo", "eth0"):
                _run("ip", "-n", space, "link", "set", interface, "up")

    def remove(self) -> None:
        """Remove all of it."""
        for name in ("switch", *self.names):
            subprocess.run(["ip", "netns", "delete", self._space(name)], check=False, capture_output=True)

    def _space(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _port(self, name: str) -> str:
        return f"to-{name}"


@contextmanager
def running_hosts(names: Sequence[str], postgres_socket: Path, folder: Path) -> Iterator[Hosts]:
    """These hosts, and one with the servers; skips the test where the machine does not allow it."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the command `ip`")
    hosts = Hosts([SERVERS, *names])
    with ExitStack() as stack:
        stack.callback(hosts.remove)
        try:
            hosts.make()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        for command in _servers(hosts.address(SERVERS), postgres_socket, folder):
            server = subprocess.Popen([*hosts.enter(SERVERS), *command], stdout=subprocess.DEVNULL)
            stack.callback(server.wait)
            stack.callback(server.kill)
        yield hosts


def redis_url(hosts: Hosts) -> str:
    """Of the Redis there."""
    return f"redis://:{PASSWORD}@{hosts.address(SERVERS)}:{REDIS_PORT}/0"


def _servers(address: str, postgres_socket: Path, folder: Path) -> list[list[str]]:
    redis = [str(find_redis_binary().path), "--bind", address, "--port", str(REDIS_PORT), "--save", ""]
    redis += ["--dir", str(folder), "--requirepass", PASSWORD]
    forwarder = [sys.executable, "-c", _FORWARDER, address, str(POSTGRES_PORT), str(postgres_socket)]
    return [redis, forwarder]


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
