"""The network of the peers of the serving benchmark, as TorchServe's image handler loads it: ResNet-34, eager mode."""

from torchvision.models.resnet import BasicBlock, ResNet


class ImageClassifier(ResNet):  # type: ignore[misc]
    """torchvision's ResNet-34."""

    def __init__(self) -> None:
        super().__init__(BasicBlock, [3, 4, 6, 3])
