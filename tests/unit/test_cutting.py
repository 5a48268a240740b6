"""Cutting: the pieces are the file, and equal tensors are equal pieces."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping
from itertools import pairwise

import pytest

from dljobs.service import cutting

BLOB, SMALL, GROUP = 1000, 100, 300


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "BLOB_BYTES", BLOB)
    monkeypatch.setattr(cutting, "SMALL_BYTES", SMALL)
    monkeypatch.setattr(cutting, "GROUP_BYTES", GROUP)


def cut(content: bytes) -> list[bytes]:
    file = io.BytesIO(content)
    sizes = list(cutting.cut(file))
    assert sum(sizes) == len(content)
    file.seek(0)
    return [file.read(size) for size in sizes]


def safetensors(tensors: Mapping[str, bytes], **changes: object) -> bytes:
    """A file that holds these bytes in this order."""
    ends = [0]
    for data in tensors.values():
        ends.append(ends[-1] + len(data))
    header: dict[str, object] = {
        name: {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}
        for name, (start, stop) in zip(tensors, pairwise(ends), strict=True)
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **header, **changes}).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(tensors.values())


def tensors_of(*sizes: int, seed: int = 0) -> dict[str, bytes]:
    draw = random.Random(seed)
    return {f"tensor{number}": draw.randbytes(size) for number, size in enumerate(sizes)}


@pytest.mark.parametrize("size", [0, 1, 7, 8, BLOB - 1, BLOB, BLOB + 1, 5 * BLOB + 3])
def test_any_other_file_is_cut_into_equal_pieces(size: int) -> None:
    content = random.Random(0).randbytes(size)
    pieces = cut(content)
    assert b"".join(pieces) == content
    assert all(len(piece) == BLOB for piece in pieces[:-1])
    assert all(pieces)


def test_a_tensor_is_cut_from_its_own_beginning() -> None:
    tensors = tensors_of(2 * BLOB + 5, 150, BLOB)
    first, second, third = tensors.values()
    assert cut(safetensors(tensors))[1:] == [first[:BLOB], first[BLOB : 2 * BLOB], first[2 * BLOB :], second, third]


def test_small_neighbours_stay_together_up_to_a_limit() -> None:
    tensors = tensors_of(40, 0, 50, 500, 99, 99, 99, 99, 8)
    pieces = cut(safetensors(tensors))
    assert [len(piece) for piece in pieces[1:]] == [90, 500, 297, 107]
    assert b"".join(pieces) == safetensors(tensors)


def test_what_two_files_have_in_common_is_the_same_pieces() -> None:
    """Even where it lies at another place in the file."""
    shared = tensors_of(700, 2500, 800)
    before = {**shared, "head": b"a" * 200}
    after = {"a new layer": b"b" * 333, **shared, "head": b"c" * 200}
    assert set(cut(safetensors(shared))[1:]) == set(cut(safetensors(before))) & set(cut(safetensors(after)))


def junk(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text + b"x" * 3000


@pytest.mark.parametrize(
    "content",
    [
        junk(b"{"),
        junk(b"[1]"),
        junk(b"null"),
        junk(b'{"a": 1}'),
        junk(b'{"a": {"data_offsets": [0, Infinity]}}'),
        junk(b'{"a": {"data_offsets": "no"}}'),
        junk(b"[" * 50_000),
        junk(b'{"a": {"data_offsets": [-5, -2]}, "b": {"data_offsets": [7, 7]}}'),
        junk(b'{"a": {"data_offsets": [0, 99999999999999]}}'),
        (2**63).to_bytes(8, "little") + b"x" * 3000,
        safetensors(tensors_of(2500))[:-700],
        safetensors(tensors_of(2500)) + b"and more",
        safetensors({}),
    ],
)
def test_a_header_that_lies_costs_nothing_but_a_worse_cut(content: bytes) -> None:
    pieces = cut(content)
    assert b"".join(pieces) == content
    assert all(0 < len(piece) <= BLOB for piece in pieces)
