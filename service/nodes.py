"""Nodes: the hosts that workers run on, and which of them take nothing new."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select, update

from dljobs.errors import NotFound, UsageError

from .clock import now
from .events import record
from .tables import drained_nodes, workers


def drain_node(connection: Connection, node: str, *, actor: str, reason: str, evict: bool) -> None:
    """Give the node nothing new; with `evict`, what runs there is to checkpoint and go back in the queue.

    Raises:
        NotFound: no worker was ever on such a node.
        UsageError: the reason is too long.
    """
    _check_known(connection, node)
    if len(reason) > 200 or not reason.isprintable() or not node:
        raise UsageError("a reason is up to 200 printable characters")
    values = {"reason": reason, "drained_by": actor, "drained_at": now(), "evicts": int(evict)}
    known = update(drained_nodes).where(drained_nodes.c.node == node)
    if not connection.execute(known.values(**values)).rowcount:
        connection.execute(insert(drained_nodes).values(node=node, **values))
    words = f"node {node} drained" + (", its runs go elsewhere" if evict else "") + (f": {reason}" if reason else "")
    record(connection, "node", words, actor=actor)


def undrain_node(connection: Connection, node: str, *, actor: str) -> None:
    """Let the node take work again.

    Raises:
        NotFound: no worker was ever on such a node.
        UsageError: it is not drained.
    """
    _check_known(connection, node)
    if not connection.execute(delete(drained_nodes).where(drained_nodes.c.node == node)).rowcount:
        raise UsageError(f"node {node} is not drained", "`dljobs node list` shows which are")
    record(connection, "node", f"node {node} takes work again", actor=actor)


def is_evicted(connection: Connection, node: str) -> bool:
    """Whether what runs on the node is to go elsewhere."""
    query = select(drained_nodes.c.evicts).where(drained_nodes.c.node == node)
    return bool(connection.execute(query).scalar())


def _check_known(connection: Connection, node: str) -> None:
    known = set(connection.execute(select(workers.c.node).distinct()).scalars())
    if node not in known:
        raise NotFound(f"there is no node {node!r}", f"nodes: {', '.join(sorted(known)) or 'none yet'}")
