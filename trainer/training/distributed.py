"""Data parallel training: one process a GPU, on one host or several, started by ``torchrun``.

Every process holds the whole model and takes its share of each batch; sums over all of them make
the result that of one process, batch normalisation included. Without ``torchrun`` the world is this
process alone, and nothing here does anything.

Hosts come from SageMaker's ``input/config/resourceconfig.json``; where RANK and WORLD_SIZE are set
already, somebody else has started the processes. BINWATCH_PROCESSES says how many a host gets: as
many as it has GPUs without, else one.
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html
"""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.nn.functional import all_reduce

from serve.errors import SettingsError

PORT = 29500


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def launcher(base: Path, environ: Mapping[str, str], module: str) -> list[str] | None:
    """The command that starts ``module`` once a process; None where this process is to train itself.

    Raises SettingsError.
    """
    if "WORLD_SIZE" in environ:
        return None
    text = environ.get("BINWATCH_PROCESSES") or str(torch.cuda.device_count() or 1)
    if not text.isdecimal() or int(text) < 1:
        raise SettingsError(f"BINWATCH_PROCESSES is {text!r}; give a whole number from 1")
    hosts, current = _hosts(base)
    if len(hosts) == 1:
        where = ["--standalone"]
    else:
        where = [
            f"--nnodes={len(hosts)}",
            f"--node-rank={hosts.index(current)}",
            f"--master-addr={hosts[0]}",
            f"--master-port={PORT}",
        ]
    if len(hosts) * int(text) == 1:
        return None
    return [sys.executable, "-m", "torch.distributed.run", *where, f"--nproc-per-node={text}", "-m", module]


def _hosts(base: Path) -> tuple[list[str], str]:
    path = base / "input" / "config" / "resourceconfig.json"
    if not path.is_file():
        return ["localhost"], "localhost"
    try:
        content = json.loads(path.read_text())
        hosts, current = sorted(content["hosts"]), content["current_host"]
        hosts.index(current)
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f'{path} is no resource configuration ({error!r}); it must look like {{"current_host": "algo-1", '
            '"hosts": ["algo-1", "algo-2"]}'
        ) from error
    return hosts, current


@contextmanager
def process_group(environ: Mapping[str, str]) -> Iterator[None]:
    """While the context lasts this process trains with those that ``torchrun`` has started."""
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
    """The GPU of this process when there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def all_reduce_sum(values: Tensor) -> Tensor:
    """``values``, of any shape, summed over all processes."""
    if size() > 1:
        values = values.to(pick_device())
        dist.all_reduce(values)
    return values.cpu()


def any_process(flag: bool) -> bool:
    """Whether ``flag`` is set in one of the processes: they must stop at the same batch."""
    return flag if size() == 1 else bool(all_reduce_sum(torch.tensor(float(flag))).item())


def broadcast_from_rank0(value: Any) -> Any:
    """What the first process holds: a checkpoint lies on its host alone."""
    if size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def wrap_ddp(model: nn.Module) -> nn.Module:
    """``model`` with its gradients averaged over the processes, and its batch normalisation made over all photos."""
    if size() == 1:
        return model
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, _joint(child))
    return nn.parallel.DistributedDataParallel(model)


def _joint(norm: nn.BatchNorm2d) -> "JointBatchNorm":
    made = JointBatchNorm(norm.num_features, norm.eps, norm.momentum)
    made.__dict__.update(norm.__dict__)  # the same tensors: an optimiser may hold them
    return made


class JointBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the photos of all processes; torch's own, SyncBatchNorm, refuses a CPU.

    Photos ``(B, C, H, W)``, where B may differ from one process to the next.
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
        self._remember(mean.detach(), variance.detach() * number / (number - 1))
        scale = (variance + self.eps).rsqrt() * self.weight
        shift = self.bias - mean * scale
        return (wide * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        for kept, seen in ((self.running_mean, mean), (self.running_var, variance)):
            assert kept is not None
            kept.lerp_(seen, self.momentum or 0.1)  # torch's own default
