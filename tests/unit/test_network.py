"""Which address other nodes reach this one at: as set, or the way to the servers that all share."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from dljobs.errors import UnknownName
from dljobs.service.settings import Settings
from dljobs.workers import network
from tests.databases import settings_for

FOUND = {
    "lo": [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")],
    "eth0": [(socket.AF_INET, "10.0.0.7"), (socket.AF_INET6, "fe80::7%eth0"), (socket.AF_INET6, "2001:db8::7")],
    "ib0": [(socket.AF_INET6, "fe80::8%ib0"), (socket.AF_INET6, "2001:db8::8")],
}
POSTGRES = "postgresql://ada:secret@db.lab:5432/dljobs"
REDIS = "redis://:secret@queue.lab:6379/0"


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A host with two cards; returns its routes, by the host they lead to."""
    routes = {"db.lab": "127.0.0.1", "queue.lab": "10.0.0.7", network._ANYWHERE: "10.9.9.9"}
    addresses = {
        name: [SimpleNamespace(family=family, address=address) for family, address in found]
        for name, found in FOUND.items()
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: addresses)
    monkeypatch.setattr(network, "_source_to", lambda host: routes.get(host, ""))
    return routes


def settings(tmp_path: Path, **flags: Any) -> Settings:
    return settings_for(tmp_path, **{"database_url": POSTGRES, "redis_url": REDIS, **flags})


def test_the_way_to_the_database_if_that_is_on_another_host(host: dict[str, str], tmp_path: Path) -> None:
    host["db.lab"] = "10.0.0.8"
    assert network.own_address(settings(tmp_path)) == "10.0.0.8"


def test_else_the_way_to_redis_or_to_anywhere(host: dict[str, str], tmp_path: Path) -> None:
    assert network.own_address(settings(tmp_path)) == "10.0.0.7"
    host["queue.lab"] = "127.0.1.1"
    assert network.own_address(settings(tmp_path)) == "10.9.9.9"
    host.clear()
    assert network.own_address(settings(tmp_path)) == "127.0.0.1"


def test_all_workers_on_an_embedded_database_are_on_this_host(tmp_path: Path) -> None:
    assert network.own_address(settings(tmp_path, database_url="")) == "127.0.0.1"


@pytest.mark.parametrize(
    ("interface", "address"),
    [("eth0", "10.0.0.7"), ("ib0", "2001:db8::8"), ("10.0.0.7", "10.0.0.7"), ("2001:db8::7", "2001:db8::7")],
)
def test_the_setting_names_an_interface_or_an_address(tmp_path: Path, interface: str, address: str) -> None:
    assert network.own_address(settings(tmp_path, interface=interface)) == address


def test_an_interface_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"eth1.*eth0"):
        network.own_address(settings(tmp_path, interface="eth1"))


def test_the_interface_of_an_address() -> None:
    assert [network.interface_of(each) for each in ("10.0.0.7", "127.0.0.1", "10.1.1.1")] == ["eth0", "lo", ""]
