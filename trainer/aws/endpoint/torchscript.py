"""An archive's torch program as TorchScript that torch 1.5.1 loads, which AWS's Elastic Inference container has.

Today's ``torch.jit`` writes operators and files that 1.5.1 does not know. So the exported graph is written down once
more with operators that are the same in both, and the file gets the number of the format that 1.5.1 reads. A graph
that needs more than these operators is refused. Tried with torch 1.5.1 on Python 3.6: the same logits within 1e-5.
"""

import linecache
import math
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from serve.errors import ArchiveError

FILE_FORMAT = b"2\n"
"""What torch 1.5.1 writes; it refuses more than that."""

_SAME = frozenset(
    {
        "add.Tensor",
        "add_.Tensor",
        "adaptive_avg_pool2d.default",
        "batch_norm.default",
        "cat.default",
        "conv2d.default",
        "div.Tensor",
        "flatten.using_ints",
        "flip.default",
        "linear.default",
        "log_softmax.int",
        "max_pool2d.default",
        "mean.dim",
        "mul.Tensor",
        "permute.default",
        "relu.default",
        "relu_.default",
        "sub.Tensor",
        "to.dtype",
    }
)
_NOTHING = frozenset({"dropout.default", "lift_fresh_copy.default"})
"""What changes no answer, so that its input stands for it."""


def write(program: Path, target: Path) -> Path:
    """Write ``program``, an exported one of pixels uint8 ``(B, S, S, 3)``, as TorchScript. Raises ArchiveError."""
    if not program.is_file():
        raise ArchiveError(f"the archive has no {program.name}, of which TorchScript is made: export again")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit says that it has a successor, which 1.5.1 does not know
        exported = torch.export.load(program).module()
        torch.jit.save(torch.jit.script(_rewritten(exported).eval()), target.with_suffix(".new"))  # type: ignore[no-untyped-call]
    _aged(target.with_suffix(".new"), target)
    target.with_suffix(".new").unlink()
    return target


def _rewritten(exported: Any) -> nn.Module:
    """The graph of an exported module, in operators that torch 1.5.1 has too."""
    weights, graph = nn.Module(), fx.Graph()
    made: dict[fx.Node, Any] = {}
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            made[node] = graph.placeholder(node.name)
        elif node.op == "get_attr":
            name = f"w{len(made)}"
            weights.register_buffer(name, _attribute(exported, node.target).detach().clone())
            made[node] = graph.get_attr(name)
        elif node.op == "call_function":
            made[node] = _call(graph, node, lambda each: fx.node.map_arg(each, made.__getitem__))
        elif node.op == "output":
            graph.output(made[node.args[0][0]])
    return _with_forward(weights, graph.python_code("self").src)


def _with_forward(weights: nn.Module, source: str) -> nn.Module:
    """A module with these members and that method; fx's own has members of types that 1.5.1 does not know."""
    name = "<the network for torch 1.5.1>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)  # where torch.jit finds it
    namespace: dict[str, Any] = {"torch": torch, "device": torch.device, "inf": math.inf, "nan": math.nan}
    exec(compile(source, name, "exec"), namespace)  # noqa: S102 - made by torch.fx of a graph of operators
    weights.__class__ = type("Network", (nn.Module,), {"forward": namespace["forward"], "__module__": "network"})
    return weights


def _call(graph: fx.Graph, node: fx.Node, mapped: Callable[[Any], Any]) -> Any:
    name = str(node.target).removeprefix("aten.")
    args, kwargs = mapped(node.args), mapped(node.kwargs)
    if name in _SAME and not kwargs:
        return graph.call_function(getattr(torch.ops.aten, name.partition(".")[0]), args)
    if name in _NOTHING or (name == "slice.Tensor" and _is_whole(args)):
        return args[0]
    if name == "_assert_tensor_metadata.default":
        return None
    if name == "hardtanh.default":
        return graph.call_function(torch.ops.aten.clamp, (args[0], *(args[1:] or (-1.0, 1.0))))
    if name == "pad.default" and args[2:3] in ((), ("constant",)):
        return graph.call_function(torch.ops.aten.constant_pad_nd, (args[0], args[1], *(args[3:] or (0.0,))))
    if name == "index.Tensor" and len(args[1]) == 2 and args[1][0] is None:
        return graph.call_function(torch.ops.aten.index_select, (args[0], 1, args[1][1]))
    raise ArchiveError(
        f"the network uses {node.target}, which TorchScript for torch 1.5.1 is not written for; "
        "deploy it without --accelerator-type"
    )


def _is_whole(args: Any) -> bool:
    return args[2:4] == (0, torch.iinfo(torch.int64).max) and args[4:] in ((), (1,))


def _attribute(module: Any, path: str) -> torch.Tensor:
    for name in path.split("."):
        module = getattr(module, name)
    assert isinstance(module, torch.Tensor)
    return module


def _aged(source: Path, target: Path) -> None:
    """Copy TorchScript as torch 1.5.1 writes it: without what newer ones say of themselves, and for debugging."""
    with zipfile.ZipFile(source) as new, zipfile.ZipFile(target, "w") as old:
        for name in new.namelist():
            inside = name.partition("/")[2]
            if inside == "version":
                old.writestr(name, FILE_FORMAT)
            elif inside.startswith("code/") and inside.endswith(".py"):
                lines = new.read(name).decode().splitlines(keepends=True)
                old.writestr(name, "".join(line for line in lines if not line.startswith("  __buffers__")))
            elif inside in ("data.pkl", "constants.pkl") or inside.startswith(("data/", "constants/")):
                old.writestr(name, new.read(name))
