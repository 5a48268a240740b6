"""LeNet, the convolutional network of the classic PyTorch introduction."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from .catalog import model


@model(
    "lenet",
    summary="LeNet for 32×32 images: two convolutions, three linear layers",
    source="PyTorch, Deep Learning with PyTorch: A 60 Minute Blitz, Neural Networks; after LeCun et al. 1998 (LeNet-5)",
    num_parameters=61_706,
    data="digits",
    loss="cross_entropy",
    metric="accuracy",
    goal="max",
    epochs=15,
    batch_size=64,
    optimizer="sgd",
    lr=0.05,
    momentum=0.9,
    schedule="cosine",
    channels_last=True,
    expected=">= 97% test accuracy on digits",
    reaches="test.accuracy>=0.97",
)
class LeNet(nn.Module):
    """[n, in_channels, 32, 32] images to [n, num_classes] logits.

    Convolution 6@5×5, pool, convolution 16@5×5, pool, then 120, 84 and num_classes units. As in the tutorial, and other
    than in the paper of 1998: ReLU for tanh, max-pooling without weights, all maps connected, no Gaussian output.

    Args:
        in_channels: channels of the images; fitted to the data unless set
        num_classes: outputs; fitted to the data unless set
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = x.flatten(1)
        x = functional.relu(self.fc1(x))
        x = functional.relu(self.fc2(x))
        out: Tensor = self.fc3(x)
        return out
