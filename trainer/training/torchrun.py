"""The processes of a distributed training: how many there are on which hosts, and the command that starts them.

The hosts come from SageMaker's ``input/config/resourceconfig.json``. Where WORLD_SIZE is set, another launcher has
started the processes already. BINWATCH_PROCESSES is the number of processes per host; the default is the number of
GPUs, or 1. MASTER_PORT is the port at which the hosts meet on the first one; the default is PORT.
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from serve.errors import SettingsError

PORT = 29500


def launch_command(base: Path, environ: Mapping[str, str], module: str) -> list[str] | None:
    """The command that starts ``module`` in every process of this host; None when this process trains itself.

    ``base``: SageMaker's /opt/ml. Raises SettingsError for a BINWATCH_PROCESSES or resourceconfig.json that it cannot
    use.
    """
    if "WORLD_SIZE" in environ:
        return None
    processes = environ.get("BINWATCH_PROCESSES") or str(_gpus() or 1)
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
            f"--master-port={environ.get('MASTER_PORT') or PORT}",
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


def _gpus() -> int:
    import torch  # takes seconds to import, and a process that only starts others can do without

    return torch.cuda.device_count()
