"""Converts an archive's torch program to TorchScript for torch 1.5.1, which AWS's Elastic Inference container has.

Today's ``torch.jit`` writes operators and files that torch 1.5.1 cannot read. So the exported graph is rewritten with
operators that are the same in both versions, and the file gets the format number that 1.5.1 reads. A graph that needs
other operators is refused. Tested with torch 1.5.1 on Python 3.6: the logits are the same within 1e-5.
"""

import linecache
import math
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from serve.errors import ArchiveError

FILE_FORMAT = b"2\n"
"""The format that torch 1.5.1 writes; it refuses higher numbers."""

_SUPPORTED = frozenset(
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
_IDENTITY = frozenset({"dropout.default", "lift_fresh_copy.default"})
"""Operators that do not change the result: their input replaces them."""


def write(program: Path, target: Path) -> Path:
    """Convert an exported program, which takes uint8 pixels ``(B, S, S, 3)``. Raises ArchiveError."""
    if not program.is_file():
        raise ArchiveError(f"the archive has no {program.name}, from which TorchScript is converted; export again")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but 1.5.1 reads nothing else
        exported = torch.export.load(program).module()
        torch.jit.save(torch.jit.script(_rewrite(exported).eval()), target.with_suffix(".new"))  # type: ignore[no-untyped-call]
    _downgrade(target.with_suffix(".new"), target)
    target.with_suffix(".new").unlink()
    return target


def _rewrite(exported: Any) -> nn.Module:
    """A module that computes the first output, the logits, in operators that torch 1.5.1 has too."""
    weights, graph = nn.Module(), fx.Graph()
    rewritten: dict[fx.Node, Any] = {}
    needed = _nodes_of_logits(exported.graph)
    for node in exported.graph.nodes:
        if node not in needed:
            continue
        if node.op == "placeholder":
            rewritten[node] = graph.placeholder(node.name)
        elif node.op == "get_attr":
            name = f"w{len(rewritten)}"
            weights.register_buffer(name, _attribute(exported, node.target).detach().clone())
            rewritten[node] = graph.get_attr(name)
        elif node.op == "call_function":
            rewritten[node] = _call(graph, node, rewritten)
        elif node.op == "output":
            graph.output(rewritten[node.args[0][0]])
    return _with_forward(weights, graph.python_code("self").src)


def _nodes_of_logits(graph: fx.Graph) -> set[fx.Node]:
    """The inputs of a graph, its end, and all nodes in between that the first output depends on."""
    (end,) = graph.find_nodes(op="output")
    (logits, *_), *_ = end.args
    needed, waiting = {end, *graph.find_nodes(op="placeholder")}, [logits]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    return needed


def _with_forward(weights: nn.Module, source: str) -> nn.Module:
    """A module with these weights and this method; fx's own has members of types that torch 1.5.1 lacks."""
    name = "<the network for torch 1.5.1>"
    linecache.cache[name] = (
        len(source),
        None,
        source.splitlines(keepends=True),
        name,
    )  # for torch.jit
    namespace: dict[str, object] = {"torch": torch, "device": torch.device, "inf": math.inf, "nan": math.nan}
    exec(compile(source, name, "exec"), namespace)  # noqa: S102 - torch.fx generates it from a graph of operators
    weights.__class__ = type("Network", (nn.Module,), {"forward": namespace["forward"], "__module__": "network"})
    return weights


def _call(graph: fx.Graph, node: fx.Node, rewritten: Mapping[fx.Node, Any]) -> Any:
    """The node of ``graph`` that replaces ``node``, whose inputs have been rewritten; None for none."""
    name = str(node.target).removeprefix("aten.")
    args: Any = fx.node.map_arg(node.args, rewritten.__getitem__)
    kwargs = fx.node.map_arg(node.kwargs, rewritten.__getitem__)
    if name in _SUPPORTED and not kwargs:
        return graph.call_function(getattr(torch.ops.aten, name.partition(".")[0]), args)
    if name in _IDENTITY or (name == "slice.Tensor" and _is_whole(args)):
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
        f"the network uses {node.target}, which cannot be converted for torch 1.5.1; "
        "deploy it without --accelerator-type"
    )


def _is_whole(args: Sequence[object]) -> bool:
    return args[2:4] == (0, torch.iinfo(torch.int64).max) and args[4:] in ((), (1,))


def _attribute(module: object, path: str) -> torch.Tensor:
    for name in path.split("."):
        module = getattr(module, name)
    assert isinstance(module, torch.Tensor)
    return module


def _downgrade(source: Path, target: Path) -> None:
    """Copy TorchScript in the format of torch 1.5.1, without debug information and metadata of newer versions."""
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
