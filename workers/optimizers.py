"""The optimizer of a run and its learning rate at each step, from the training section of a spec.

The learning rate is a pure function of the step: nothing of it has to be saved or restored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dljobs.service.spec import Training


def build_optimizer(training: Training, model: nn.Module) -> torch.optim.Optimizer:
    """The named optimizer over the parameters that take gradients, which lie on their device already."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    common: dict[str, Any] = {"lr": training.lr, "weight_decay": training.weight_decay}
    fused: dict[str, Any] = {"fused": True} if _can_fuse(model, trained) else {}
    match training.optimizer:
        case "sgd":
            sgd = torch.optim.SGD(trained, momentum=training.momentum, **common, **fused)
            if fused and training.momentum:
                _begin_momenta(sgd)
                # What a checkpoint holds takes the place of all state: of another optimizer, it holds no momenta.
                sgd.register_load_state_dict_post_hook(_begin_momenta)
            return sgd
        case "adam":
            return torch.optim.Adam(trained, **common, **fused)
        case "adamw":
            return torch.optim.AdamW(trained, **common, **fused)
        case "rmsprop":  # torch has no fused one
            return torch.optim.RMSprop(trained, momentum=training.momentum, **common)
        case "adagrad":
            return torch.optim.Adagrad(trained, **common, **fused)


def _begin_momenta(sgd: torch.optim.Optimizer) -> None:
    """Give each parameter that has none yet a zero momentum.

    The fused kernel wants momenta of all parameters or of none, and some get their first gradient late. The plain one
    begins with the gradient itself, which is the same: 0 * momentum + gradient.
    """
    for group in sgd.param_groups:
        for parameter in group["params"]:
            if sgd.state[parameter].get("momentum_buffer") is None:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _can_fuse(model: nn.Module, trained: Sequence[nn.Parameter]) -> bool:
    """Whether all parameters may be updated in one kernel: two to four times faster for small models on a CPU."""
    has_sparse_gradients = any(getattr(module, "sparse", False) is True for module in model.modules())
    return not has_sparse_gradients and all(parameter.is_floating_point() for parameter in trained)


def learning_rate(training: Training, step: int, total_steps: int) -> float:
    """The learning rate of a step (counted from 1).

    It rises linearly over `warmup_steps`. Then "constant" stays, "cosine" falls along half a cosine to zero after the
    last step (Loshchilov and Hutter, SGDR, ICLR 2017), and "step" is divided by 10 after one third and again after two
    thirds of all steps (as in He et al., Deep Residual Learning, 2015: epochs 30 and 60 of 90).
    """
    if step <= training.warmup_steps:
        return training.lr * step / training.warmup_steps
    done = step - 1 - training.warmup_steps
    length = max(1, total_steps - training.warmup_steps)
    match training.schedule:
        case "constant":
            return training.lr
        case "cosine":
            return training.lr * 0.5 * (1 + math.cos(math.pi * done / length))
        case "step":
            return training.lr * 0.1 ** ((step - 1) * 3 // max(1, total_steps))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
