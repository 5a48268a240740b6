"""torchvision's classifiers as a list: what the catalog must know of them without loading torch.

It owns the table that a test holds against torchvision itself, and the entries made of it. How one is built and fitted
to data is `torchvision_models.py`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

from .entries import ModelEntry
from .options import Option

TARGET = "dljobs.models.torchvision_models"
NO_WEIGHTS = "none"
# One small epoch on random images of the size each is made for: it shows that the model trains here.
TRAINING = {"epochs": 1, "batch_size": 8, "optimizer": "sgd", "lr": 0.01, "momentum": 0.9}
# By the beginning of the name.
PAPERS = {
    "alexnet": "Krizhevsky 2014: One weird trick for parallelizing convolutional neural networks",
    "convnext": "Liu et al. 2022: A ConvNet for the 2020s",
    "densenet": "Huang et al. 2017: Densely Connected Convolutional Networks",
    "efficientnet_b": "Tan and Le 2019: EfficientNet",
    "efficientnet_v2": "Tan and Le 2021: EfficientNetV2",
    "googlenet": "Szegedy et al. 2015: Going Deeper with Convolutions",
    "inception": "Szegedy et al. 2016: Rethinking the Inception Architecture for Computer Vision",
    "maxvit": "Tu et al. 2022: MaxViT",
    "mnasnet": "Tan et al. 2019: MnasNet",
    "mobilenet_v2": "Sandler et al. 2018: MobileNetV2",
    "mobilenet_v3": "Howard et al. 2019: Searching for MobileNetV3",
    "regnet": "Radosavovic et al. 2020: Designing Network Design Spaces",
    "resnet": "He et al. 2016: Deep Residual Learning for Image Recognition",
    "resnext": "Xie et al. 2017: Aggregated Residual Transformations for Deep Neural Networks",
    "shufflenet": "Ma et al. 2018: ShuffleNet V2",
    "squeezenet": "Iandola et al. 2016: SqueezeNet",
    "swin_v2": "Liu et al. 2022: Swin Transformer V2",
    "swin": "Liu et al. 2021: Swin Transformer",
    "vgg": "Simonyan and Zisserman 2015: Very Deep Convolutional Networks for Large-Scale Image Recognition",
    "vit": "Dosovitskiy et al. 2021: An Image is Worth 16x16 Words",
    "wide_resnet": "Zagoruyko and Komodakis 2016: Wide Residual Networks",
}


@dataclass(frozen=True)
class Published:
    """What is published of a model."""

    num_parameters: int  # with 1,000 classes, auxiliary classifiers included
    weights: tuple[str, ...]  # names; "DEFAULT" means the best of them
    top1: float  # accuracy in percent of DEFAULT on ImageNet


def source_of(name: str) -> str:
    """The paper behind a model."""
    return next(paper for beginning, paper in PAPERS.items() if name.startswith(beginning)) + "; torchvision"


def image_size_of(name: str) -> int:
    """Height and width of the images that a model is made for."""
    return 299 if name == "inception_v3" else 224


def options_of(name: str) -> dict[str, Option]:
    """What can be set on a model."""
    choices = (NO_WEIGHTS, "DEFAULT", *TABLE[name].weights)
    options = [
        Option("in_channels", "int", 3, (), "channels of the images; fitted to the data unless set"),
        Option("num_classes", "int", 1000, (), "outputs; fitted to the data unless set"),
        Option("weights", "str", NO_WEIGHTS, choices, "published weights to start from"),
    ]
    if name.startswith("vit_"):
        size = Option("image_size", "int", 224, (), "height and width of the images; fitted to the data unless set")
        options.append(size)
    return {option.name: option for option in options}


def read_table() -> dict[str, ModelEntry]:
    """The entries of the catalog, by name."""
    return {
        name: ModelEntry(
            name=name,
            summary=f"{name} of torchvision, fitted to the data",
            source=source_of(name),
            num_parameters=published.num_parameters,
            data="fake",
            loss="cross_entropy",
            metric="accuracy",
            goal="max",
            defaults=dict(TRAINING),
            expected=f"trains; with weights=DEFAULT {published.top1}% on ImageNet are published",
            target=f"{TARGET}:{name}",
            options=options_of(name),
            doc=source_of(name),
            data_options={"size": 64, "test_size": 16, "image_size": image_size_of(name)},
            collection="torchvision",
        )
        for name, published in TABLE.items()
    }


TABLE = {
    "alexnet": Published(61_100_840, ("IMAGENET1K_V1",), 56.5),
    "convnext_base": Published(88_591_464, ("IMAGENET1K_V1",), 84.1),
    "convnext_large": Published(197_767_336, ("IMAGENET1K_V1",), 84.4),
    "convnext_small": Published(50_223_688, ("IMAGENET1K_V1",), 83.6),
    "convnext_tiny": Published(28_589_128, ("IMAGENET1K_V1",), 82.5),
    "densenet121": Published(7_978_856, ("IMAGENET1K_V1",), 74.4),
    "densenet161": Published(28_681_000, ("IMAGENET1K_V1",), 77.1),
    "densenet169": Published(14_149_480, ("IMAGENET1K_V1",), 75.6),
    "densenet201": Published(20_013_928, ("IMAGENET1K_V1",), 76.9),
    "efficientnet_b0": Published(5_288_548, ("IMAGENET1K_V1",), 77.7),
    "efficientnet_b1": Published(7_794_184, ("IMAGENET1K_V1", "IMAGENET1K_V2"), 79.8),
    "efficientnet_b2": Published(9_109_994, ("IMAGENET1K_V1",), 80.6),
    "efficientnet_b3": Published(12_233_232, ("IMAGENET1K_V1",), 82.0),
    "efficientnet_b4": Published(19_341_616, ("IMAGENET1K_V1",), 83.4),
    "efficientnet_b5": Published(30_389_784, ("IMAGENET1K_V1",), 83.4),
    "efficientnet_b6": Published(43_040_704, ("IMAGENET1K_V1",), 84.0),
    "efficientnet_b7": Published(66_347_960, ("IMAGENET1K_V1",), 84.1),
    "efficientnet_v2_l": Published(118_515_272, ("IMAGENET1K_V1",), 85.8),
    "efficientnet_v2_m": Published(54_139_356, ("IMAGENET1K_V1",), 85.1),
    "efficientnet_v2_s": Published(21_458_488, ("IMAGENET1K_V1",), 84.2),
    "googlenet": Published(13_004_888, ("IMAGENET1K_V1",), 69.8),
    "inception_v3": Published(27_161_264, ("IMAGENET1K_V1",), 77.3),
    "maxvit_t": Published(30_919_624, ("IMAGENET1K_V1",), 83.7),
    "mnasnet0_5": Published(2_218_512, ("IMAGENET1K_V1",), 67.7),
    "mnasnet0_75": Published(3_170_208, ("IMAGENET1K_V1",), 71.2),
    "mnasnet1_0": Published(4_383_312, ("IMAGENET1K_V1",), 73.5),
    "mnasnet1_3": Published(6_282_256, ("IMAGENET1K_V1",), 76.5),
    "mobilenet_v2": Published(3_504_872, ("IMAGENET1K_V1", "IMAGENET1K_V2"), 72.2),
    "mobilenet_v3_large": Published(5_483_032, ("IMAGENET1K_V1", "IMAGENET1K_V2"), 75.3),
    "mobilenet_v3_small": Published(2_542_856, ("IMAGENET1K_V1",), 67.7),
    "regnet_x_16gf": Published(54_278_536, ("IMAGENET1K_V1", "IMAGENET1K_V2"), 82.7),
    "regnet_x_1_6gf": Published(9_190_136, ("IMAGENET1K_V1", "IMAGENET1K_V2"), 79.7),
    "regnet_x_32gf": Published(107_811_560, ("IMAGENET1K_V1", "IMAGENET1K_V2"), 83.0),
    "regnet_x_3_2gf": Published(15_296_552, ("IMAGENET1K_V1", "IMAGENET1K_V2"), 81.2),
    "regnet_x_400mf": Published(5_495_976, ("IMAGENET1K_V1", "IMAGENET1K_V2"), 74.9),
    "regnet_x_800mf": Published(7_259_656, ("IMAGENET1K_V1", "IMAGENET1K_V2"), 77.5),
    "regnet_x_8gf": Published(39_572_648, ("IMAGENET1K_V1", "IMAGENET1K_V2"), 81.7),
    "regnet_y_128gf": Published(644_812_894, ("IMAGENET1K_SWAG_E2E_V1", "IMAGENET1K_SWAG_LINEAR_V1"), 88.2),
    "regnet_y_16gf": Published(
        83_590_140, ("IMAGENET1K_V1", "IMAGENET1K_V2", "IMAGENET1K_SWAG_E2E_V1", "IMAGENET1K_SWAG_LINEAR_V1"), 82.9
    ),
    "regnet_y_1_6gf": Published(11_202_430, ("IMAGENET1K_V1", "IMAGENET1K_V2"), 80.9),
    "regnet_y_32gf": Published(
        145_046_770, ("IMAGENET1K_V1", "IMAGENET1K_V2", "IMAGENET1K_SWAG_E2E_V1", "IMAGENET1K_SWAG_LINEAR_V1"), 83.4
    ),
    "regnet_y_3_2gf": Published(19_436_338, ("IMAGENET1K_V1", "IMAGENET1K_V2"), 82.0),
    "regnet_y_400mf": Published(4_344_144, ("IMAGENET1K_V1", "IMAGENET1K_V2"), 75.8),
    "regnet_y_800mf": Published(6_432_512, ("IMAGENET1K_V1", "IMAGENET1K_V2"), 78.8),
    "regnet_y_8gf": Published(39_381_472, ("IMAGENET1K_V1", "IMAGENET1K_V2"), 82.8),
    "resnet101": Published(44_549_160, ("IMAGENET1K_V1", "IMAGENET1K_V2"), 81.9),
    "resnet152": Published(60_192_808, ("IMAGENET1K_V1", "IMAGENET1K_V2"), 82.3),
    "resnet18": Published(11_689_512, ("IMAGENET1K_V1",), 69.8),
    "resnet34": Published(21_797_672, ("IMAGENET1K_V1",), 73.3),
    "resnet50": Published(25_557_032, ("IMAGENET1K_V1", "IMAGENET1K_V2"), 80.9),
    "resnext101_32x8d": Published(88_791_336, ("IMAGENET1K_V1", "IMAGENET1K_V2"), 82.8),
    "resnext101_64x4d": Published(83_455_272, ("IMAGENET1K_V1",), 83.2),
    "resnext50_32x4d": Published(25_028_904, ("IMAGENET1K_V1", "IMAGENET1K_V2"), 81.2),
    "shufflenet_v2_x0_5": Published(1_366_792, ("IMAGENET1K_V1",), 60.6),
    "shufflenet_v2_x1_0": Published(2_278_604, ("IMAGENET1K_V1",), 69.4),
    "shufflenet_v2_x1_5": Published(3_503_624, ("IMAGENET1K_V1",), 73.0),
    "shufflenet_v2_x2_0": Published(7_393_996, ("IMAGENET1K_V1",), 76.2),
    "squeezenet1_0": Published(1_248_424, ("IMAGENET1K_V1",), 58.1),
    "squeezenet1_1": Published(1_235_496, ("IMAGENET1K_V1",), 58.2),
    "swin_b": Published(87_768_224, ("IMAGENET1K_V1",), 83.6),
    "swin_s": Published(49_606_258, ("IMAGENET1K_V1",), 83.2),
    "swin_t": Published(28_288_354, ("IMAGENET1K_V1",), 81.5),
    "swin_v2_b": Published(87_930_848, ("IMAGENET1K_V1",), 84.1),
    "swin_v2_s": Published(49_737_442, ("IMAGENET1K_V1",), 83.7),
    "swin_v2_t": Published(28_351_570, ("IMAGENET1K_V1",), 82.1),
    "vgg11": Published(132_863_336, ("IMAGENET1K_V1",), 69.0),
    "vgg11_bn": Published(132_868_840, ("IMAGENET1K_V1",), 70.4),
    "vgg13": Published(133_047_848, ("IMAGENET1K_V1",), 69.9),
    "vgg13_bn": Published(133_053_736, ("IMAGENET1K_V1",), 71.6),
    "vgg16": Published(138_357_544, ("IMAGENET1K_V1",), 71.6),
    "vgg16_bn": Published(138_365_992, ("IMAGENET1K_V1",), 73.4),
    "vgg19": Published(143_667_240, ("IMAGENET1K_V1",), 72.4),
    "vgg19_bn": Published(143_678_248, ("IMAGENET1K_V1",), 74.2),
    "vit_b_16": Published(86_567_656, ("IMAGENET1K_V1", "IMAGENET1K_SWAG_E2E_V1", "IMAGENET1K_SWAG_LINEAR_V1"), 81.1),
    "vit_b_32": Published(88_224_232, ("IMAGENET1K_V1",), 75.9),
    "vit_h_14": Published(632_045_800, ("IMAGENET1K_SWAG_E2E_V1", "IMAGENET1K_SWAG_LINEAR_V1"), 88.6),
    "vit_l_16": Published(304_326_632, ("IMAGENET1K_V1", "IMAGENET1K_SWAG_E2E_V1", "IMAGENET1K_SWAG_LINEAR_V1"), 79.7),
    "vit_l_32": Published(306_535_400, ("IMAGENET1K_V1",), 77.0),
    "wide_resnet101_2": Published(126_886_696, ("IMAGENET1K_V1", "IMAGENET1K_V2"), 82.5),
    "wide_resnet50_2": Published(68_883_240, ("IMAGENET1K_V1", "IMAGENET1K_V2"), 81.6),
}
