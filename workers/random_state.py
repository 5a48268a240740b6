"""The random state of a rank: seeding it, and turning it into JSON and back.

It covers every global generator that a model or a transform may draw from: Python, NumPy, torch, and all CUDA devices.
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from .sharding import mix_seed


def seed_all(*parts: int) -> None:
    """Seed every generator from a mixture of `parts`, such as (seed,) for weights and (seed, rank) for dropout."""
    mixed = mix_seed(*parts)
    random.seed(mixed)
    np.random.seed(mixed & 0xFFFFFFFF)
    torch.manual_seed(mixed)


def capture() -> str:
    """The state of every generator of this process, as one line of JSON."""
    version, words, gauss_next = random.getstate()
    state = np.random.get_state(legacy=False)
    assert isinstance(state, dict)
    on_gpus = torch.cuda.get_rng_state_all() if _uses_cuda() else []
    return json.dumps(
        {
            "python": [version, _pack(np.asarray(words, dtype="<u4").tobytes()), gauss_next],
            "numpy": [
                _pack(state["state"]["key"].astype("<u4").tobytes()),
                int(state["state"]["pos"]),
                int(state["has_gauss"]),
                float(state["gauss"]),
            ],
            "torch": _pack(torch.get_rng_state().numpy().tobytes()),
            "cuda": [_pack(tensor.numpy().tobytes()) for tensor in on_gpus],
        }
    )


def restore(text: str) -> None:
    """Put every generator of this process into a captured state."""
    state = json.loads(text)
    version, words, gauss_next = state["python"]
    random.setstate((version, tuple(int(word) for word in np.frombuffer(_unpack(words), dtype="<u4")), gauss_next))
    key, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", np.frombuffer(_unpack(key), dtype="<u4"), position, has_gauss, gauss))
    torch.set_rng_state(_tensor(state["torch"]))
    if _uses_cuda():
        for device, packed in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(_tensor(packed), device)


@contextlib.contextmanager
def leaving_no_trace(model: nn.Module) -> Iterator[None]:
    """A block that tries a model out: randomness and buffers are put back, and gradients are gone."""
    random_state, buffers = capture(), [buffer.clone() for buffer in model.buffers()]
    try:
        yield
    finally:
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        restore(random_state)


def _uses_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _pack(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _unpack(text: str) -> bytes:
    return base64.b64decode(text)


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(_unpack(text)), dtype=torch.uint8)
