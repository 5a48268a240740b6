"""A tree of dotted names, as modules and their parameters form one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class Branch(Generic[T]):
    """A module: what lies below it, by full name, or at its end the leaf."""

    leaf: T | None = None
    children: dict[str, Branch[T]] = field(default_factory=dict)

    def leaves(self) -> Iterator[T]:
        """All leaves below, in their order."""
        if self.leaf is not None:
            yield self.leaf
        for child in self.children.values():
            yield from child.leaves()


def grow(leaves: Mapping[str, T]) -> Branch[T]:
    """The tree of names such as "0.block 1.bias"; a module that holds one thing only is left out for that thing."""
    root: Branch[T] = Branch()
    for name, leaf in leaves.items():
        branch, parts = root, name.split(".")
        for depth in range(1, len(parts) + 1):
            branch = branch.children.setdefault(".".join(parts[:depth]), Branch())
        branch.leaf = leaf
    return _shortened(root)


def _shortened(branch: Branch[T]) -> Branch[T]:
    children: dict[str, Branch[T]] = {}
    for name, child in branch.children.items():
        shown, below = name, _shortened(child)
        while below.leaf is None and len(below.children) == 1:
            [(shown, below)] = below.children.items()
        children[shown] = below
    return Branch(branch.leaf, children)
