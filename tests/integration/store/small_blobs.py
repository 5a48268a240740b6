"""An artifact store with blobs so small that a test has many of them."""

from __future__ import annotations

from types import ModuleType

import pytest

from dljobs.service import artifact_reader, artifacts, blobs, cut_file, cutting

SMALL = 1000
_SIZES: list[tuple[ModuleType, str, object]] = [
    *((module, "BLOB_BYTES", SMALL) for module in (artifact_reader, artifacts, blobs, cut_file, cutting)),
    (artifacts, "_SMALL_BYTES", SMALL),
    (artifacts, "_TRANSACTION_BYTES", {"sqlite": SMALL, "postgresql": SMALL}),
    (artifact_reader, "_LOAD_BYTES", SMALL),
]


def use_small_blobs(monkeypatch: pytest.MonkeyPatch | None = None) -> None:
    """Until the test ends; for good in a process that has none."""
    for module, name, size in _SIZES:
        if monkeypatch is None:
            setattr(module, name, size)
        else:
            monkeypatch.setattr(module, name, size)
