"""The plot of a training: loss and accuracy by epoch."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from trainer.training.loop.progress import Epoch


def loss_curves(epochs: Sequence[Epoch], best_epoch: int) -> Figure:
    """Loss and accuracy of training and validation by epoch; the epoch whose weights are kept is marked."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    numbers = [epoch.number for epoch in epochs]
    for axes, quantity, unit in zip(figure.subplots(1, 2), ("loss", "accuracy"), ("nats", "share"), strict=True):
        for part in ("train", "validation"):
            axes.plot(numbers, [getattr(epoch, f"{part}_{quantity}") for epoch in epochs], marker="o", label=part)
        axes.axvline(best_epoch, color="grey", linestyle=":", label="kept weights")
        axes.set(xlabel="epoch", ylabel=f"{quantity} ({unit})", title=quantity)
        axes.legend()
    return figure
