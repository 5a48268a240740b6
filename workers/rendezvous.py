"""The rendezvous of a run on one node: a store on a free loopback port, and nobody to wait for.

torchrun's own c10d rendezvous sleeps a random time of up to 0.3 s before its first round, to spread the load of many
nodes, and keeps a heartbeat thread for each run. A run on one node has no one to meet: it needs only the store, which
the ranks then share. It knows nothing of ranks or of what they run.
"""

from __future__ import annotations

import datetime
import uuid

from torch._C._distributed_c10d import TCPStore  # torch.distributed re-exports it without saying so
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

LOOPBACK = "127.0.0.1"


class LocalRendezvous(RendezvousHandler):
    """One node, one round."""

    def __init__(self) -> None:
        self._run_id = uuid.uuid4().hex
        self._closed = False
        # Port 0: the kernel picks a free one while the store binds it, so no stranger can take it in between.
        self._store = TCPStore(
            LOOPBACK, 0, is_master=True, wait_for_workers=False, timeout=datetime.timedelta(minutes=5)
        )

    @property
    def use_agent_store(self) -> bool:
        """Ranks connect to this store instead of making one of their own."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """The only round: this node is node 0 of 1."""
        return RendezvousInfo(self._store, 0, 1, RendezvousStoreInfo(LOOPBACK, self._store.port))

    def get_backend(self) -> str:
        """The name in torch's own messages."""
        return "dljobs-local"

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
        """Nobody can join a run on one node."""
        return 0

    def shutdown(self) -> bool:
        """The store ends with its last reference."""
        self._closed = True
        return True
