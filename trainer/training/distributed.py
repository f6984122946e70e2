"""Data parallel training: one process per GPU, on one host or several, started by ``torchrun``.

Every process holds the whole model and takes its share of each batch. Sums over all processes, batch normalisation
included, make the result that of a single process. Without ``torchrun`` the world is this process alone, and the
functions here do nothing.

``trainer/training/torchrun.py`` says how many processes there are.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.nn.functional import all_reduce

T = TypeVar("T")


def rank() -> int:
    """The number of this process, counted from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(environ: Mapping[str, str]) -> Iterator[None]:
    """Join the processes that ``torchrun`` started for the duration of the context."""
    if int(environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def pick_device() -> torch.device:
    """This process's GPU, or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def all_reduce_sum(values: Tensor) -> Tensor:
    """``values``, of any shape, summed over all processes, on the CPU."""
    if world_size() > 1:
        values = values.to(pick_device())
        dist.all_reduce(values)
    return values.cpu()


def any_process(flag: bool) -> bool:
    """Whether ``flag`` is set in any process, so that all of them stop at the same batch."""
    return flag if world_size() == 1 else bool(all_reduce_sum(torch.tensor(float(flag))).item())


def broadcast_from_rank0(value: T) -> T:
    """The value of the first process, whose host alone has the checkpoint."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def wrap_ddp(model: nn.Module) -> nn.Module:
    """``model`` with gradients averaged, and batch normalisation computed, over all processes."""
    if world_size() == 1:
        return model
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, _joint_batch_norm(child))
    return nn.parallel.DistributedDataParallel(model)


def _joint_batch_norm(norm: nn.BatchNorm2d) -> "JointBatchNorm":
    joint = JointBatchNorm(norm.num_features, norm.eps, norm.momentum)
    joint.__dict__.update(norm.__dict__)  # keeps the tensors, which an optimiser may hold
    return joint


class JointBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the photos of all processes; torch's SyncBatchNorm does not support CPUs.

    Photos are ``(B, C, H, W)``; B may differ between processes.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a batch."""
        if not self.training:
            return super().forward(x)
        wide = x.float()
        count = torch.full((1,), x.numel() / x.shape[1], device=x.device)
        sums = torch.cat([wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3)), count])
        sums = cast(Tensor, all_reduce(sums))  # type: ignore[no-untyped-call]
        number = sums[-1].detach()
        mean, square = (sums[:-1] / number).chunk(2)
        variance = (square - mean.square()).clamp_min(0)
        self._update_running_statistics(mean.detach(), variance.detach() * number / (number - 1))
        scale = (variance + self.eps).rsqrt() * self.weight
        shift = self.bias - mean * scale
        return (wide * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor) -> None:
        for running, current in ((self.running_mean, mean), (self.running_var, variance)):
            assert running is not None
            running.lerp_(current, self.momentum or 0.1)  # torch's default
