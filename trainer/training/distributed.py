"""Data parallel training: one process per GPU, on one host or several, started by ``torchrun``.

Every process holds the whole model and takes its share of each batch. Sums over all processes, batch normalisation
included, make the result that of a single process. Without ``torchrun`` the world is this process alone, and the
functions here do nothing.

The hosts come from SageMaker's ``input/config/resourceconfig.json``. Where WORLD_SIZE is set, another launcher has
started the processes already. BINWATCH_PROCESSES is the number of processes per host; the default is the number of
GPUs, or 1.
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html
"""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.nn.functional import all_reduce

from serve.errors import SettingsError

PORT = 29500

T = TypeVar("T")


def rank() -> int:
    """The number of this process, counted from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def launch_command(base: Path, environ: Mapping[str, str], module: str) -> list[str] | None:
    """The command that starts ``module`` in every process of this host; None when this process trains itself.

    ``base``: SageMaker's /opt/ml. Raises SettingsError for a BINWATCH_PROCESSES or resourceconfig.json that it cannot
    use.
    """
    if "WORLD_SIZE" in environ:
        return None
    processes = environ.get("BINWATCH_PROCESSES") or str(torch.cuda.device_count() or 1)
    if not processes.isdecimal() or int(processes) < 1:
        raise SettingsError(f"BINWATCH_PROCESSES is {processes!r}; set it to a whole number of at least 1")
    hosts, current = _hosts(base)
    if len(hosts) == 1:
        rendezvous = ["--standalone"]
    else:
        rendezvous = [
            f"--nnodes={len(hosts)}",
            f"--node-rank={hosts.index(current)}",
            f"--master-addr={hosts[0]}",
            f"--master-port={PORT}",
        ]
    if len(hosts) * int(processes) == 1:
        return None
    return [sys.executable, "-m", "torch.distributed.run", *rendezvous, f"--nproc-per-node={processes}", "-m", module]


def _hosts(base: Path) -> tuple[list[str], str]:
    """The names of all hosts, sorted, and of this one."""
    path = base / "input" / "config" / "resourceconfig.json"
    if not path.is_file():
        return ["localhost"], "localhost"
    try:
        content = json.loads(path.read_text())
        hosts, current = sorted(content["hosts"]), content["current_host"]
        hosts.index(current)
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f'{path} is not a resource configuration ({error!r}); it must look like {{"current_host": "algo-1", '
            '"hosts": ["algo-1", "algo-2"]}'
        ) from error
    return hosts, current


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
