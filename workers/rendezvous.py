"""The rendezvous of a run: a store that the agents of its nodes share, and no waiting for anybody.

torchrun's own c10d rendezvous sleeps a random time of up to 0.3 s before its first round, to spread the load of many
nodes, and keeps a heartbeat thread for each run. Here the nodes are known before the run begins (its parts), and who
of them is there is in the database (`gang.py`): only the store is needed, which the ranks then share. It knows
nothing of ranks or of what they run.
"""

from __future__ import annotations

import datetime
import socket
import time
import uuid
from collections.abc import Callable

from torch._C._distributed_c10d import HashStore, Store, TCPStore  # torch.distributed re-exports it without saying so
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

from .network import LOOPBACK

_TIMEOUT = datetime.timedelta(minutes=5)
_TRY_S = 2.0
_AGAIN_S = 0.1


class Rendezvous(RendezvousHandler):
    """One round of nodes that are known; each of them has one of these."""

    def __init__(self, store: Store, address: str, port: int, node_rank: int = 0, num_nodes: int = 1) -> None:
        """`address`, `port`: where the store of the head is; port 0 if nobody else can reach it."""
        self.address = address
        self._port = port
        self._run_id = uuid.uuid4().hex
        self._closed = False
        self._store = store
        self._node_rank = node_rank
        self._num_nodes = num_nodes

    @property
    def endpoint(self) -> str:
        """Where other nodes join: host:port."""
        return f"{self.address}:{self._port}"

    @property
    def use_agent_store(self) -> bool:
        """Ranks connect to this store instead of making one of their own, if they need one."""
        return self._port != 0

    def next_rendezvous(self) -> RendezvousInfo:
        """The only round."""
        store_info = RendezvousStoreInfo(self.address, self._port)
        return RendezvousInfo(self._store, self._node_rank, self._num_nodes, store_info)

    def get_backend(self) -> str:
        """The name in torch's own messages."""
        return "dljobs"

    def get_run_id(self) -> str:
        """A name that no other run on this host has."""
        return self._run_id

    def is_closed(self) -> bool:
        """Whether `set_closed` was called."""
        return self._closed

    def set_closed(self) -> None:
        """No further round will come."""
        self._closed = True

    def num_nodes_waiting(self) -> int:
        """Nobody can join later."""
        return 0

    def shutdown(self) -> bool:
        """The store ends with its last reference."""
        self._closed = True
        return True


def host(address: str = LOOPBACK, num_nodes: int = 1) -> Rendezvous:
    """The head's: a store on a free port of this address only."""
    # Bound by us: TCPStore itself would listen on all addresses of the host. Port 0: the kernel picks a free one while
    # it binds it, so no stranger can take it in between.
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.create_server((address, 0), family=family, backlog=1024)
    port = int(listening.getsockname()[1])
    store = TCPStore(
        address, port, is_master=True, wait_for_workers=False, timeout=_TIMEOUT, master_listen_fd=listening.detach()
    )
    return Rendezvous(store, address, port, 0, num_nodes)


def alone() -> Rendezvous:
    """A single rank's, which meets nobody: no server, and no thread for it."""
    return Rendezvous(HashStore(), LOOPBACK, 0)


def join(endpoint: str, node_rank: int, num_nodes: int, may_go_on: Callable[[], bool]) -> Rendezvous | None:
    """Another node's: connected to the head's store. None if it could not be reached while it might go on trying."""
    address, _colon, port = endpoint.rpartition(":")
    while may_go_on():
        try:
            # First by hand: a TCPStore that cannot connect fills the log with its stack.
            socket.create_connection((address, int(port)), _TRY_S).close()
            store = TCPStore(address, int(port), is_master=False, wait_for_workers=False, timeout=_TIMEOUT)
        except (OSError, RuntimeError):
            time.sleep(_AGAIN_S)
        else:
            return Rendezvous(store, address, int(port), node_rank, num_nodes)
    return None
