"""The same network as in `models/lenet.py`, without dljobs around it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class LeNet(nn.Module):
    """[n, in_channels, 32, 32] images to [n, 10] logits."""

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = functional.relu(self.fc1(x.flatten(1)))
        out: Tensor = self.fc3(functional.relu(self.fc2(x)))
        return out
