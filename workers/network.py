"""The network: the address at which the workers of other nodes reach this one, and the interface that has it.

Chosen by the setting `interface`, else found by asking the kernel which way leads to the servers that all workers
share. Nothing is sent to find out.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

import psutil

from dljobs.errors import UnknownName
from dljobs.service.settings import Settings

LOOPBACK = "127.0.0.1"
_ANYWHERE = "192.0.2.1"  # an address that nobody has (RFC 5737): the way there is the default route
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def own_address(settings: Settings) -> str:
    """The address at which the workers of other nodes reach this one.

    Raises:
        UnknownName: the setting names neither an interface of this host nor an address of one.
    """
    if settings.interface:
        return _address_of(settings.interface)
    if settings.embedded_database:
        return LOOPBACK  # a file: all its workers are on this host
    hosts = [host for url in (settings.database_url, settings.redis_url) if (host := _host_of(url))]
    ways = (_source_to(host) for host in [*hosts, _ANYWHERE])
    return next((address for address in ways if address and not _is_loopback(address)), LOOPBACK)


def interface_of(address: str) -> str:
    """The name of the interface that has the address; empty if none has."""
    return next((name for name, found in _addresses() if found == address), "")


def _address_of(wanted: str) -> str:
    known = list(_addresses())
    if wanted in {address for _name, address in known}:
        return wanted
    of_interface = [address for name, address in known if name == wanted]
    if not of_interface:
        raise UnknownName("interface", wanted, sorted({name for name, _address in known}))
    return of_interface[0]


def _addresses() -> Iterable[tuple[str, str]]:
    """Interfaces and their addresses, those of IPv4 first; none that is valid on one link only."""
    found = [(name, each) for name, addresses in psutil.net_if_addrs().items() for each in addresses]
    for family in _FAMILIES:
        for name, each in found:
            if each.family == family and "%" not in each.address and not each.address.lower().startswith("fe80:"):
                yield name, each.address


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _source_to(host: str) -> str:
    """The address of this host from which packets go there; empty if no way leads there."""
    try:
        family, _type, _protocol, _name, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # of UDP: a look into the routing table
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"
