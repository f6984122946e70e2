#!/usr/bin/env python3
"""Start TorchServe, with workers that import torch only if they need it. Takes the options of `torchserve`.

TorchServe's worker imports torch only to check whether an answer is a tensor. On a CPU nothing else needs it, and the
import costs each starting worker its memory and seconds of a core that the serving workers need. TorchServe starts its
workers with ``sys.executable``, so this sets that to this file, which then poses as a Python interpreter.

TorchServe's worker also makes a dictionary of a request's fields, in which the last of two with the same name wins. So
the names of such fields are passed on to the handler, which refuses the request.
"""

import importlib
import os
import runpy
import shutil
import sys
from collections import Counter as Tally
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

REPEATED = b"X-Binwatch-Repeated"
"""A header that the handler gets: the names of the fields that query and form have more than once."""
Batch: TypeAlias = list[dict[str, Any]]
"""Requests as TorchServe's worker reads them: ``requestId``, ``headers`` and ``parameters``, each with its ``name``."""


class TorchForMessages(ModuleType):
    """What TorchServe's message handler gets as torch: an answer can be a tensor only if something else imported it."""

    def __getattr__(self, name: str) -> object:
        if name == "Tensor" and "torch" not in sys.modules:
            return _NoTensor
        return getattr(importlib.import_module("torch"), name)


class _NoTensor:
    """What no answer is an instance of."""


def run_worker(script: str) -> None:
    """Run TorchServe's worker script as Python would, with the options that follow it on the command line."""
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(script).parent))
    sys.modules["torch"] = TorchForMessages("torch")
    importlib.import_module("ts.protocol.otf_message_handler")
    del sys.modules["torch"]  # later imports get the real module
    service = importlib.import_module("ts.service").Service
    service.retrieve_data_for_inference = staticmethod(naming_repeated(service.retrieve_data_for_inference))
    runpy.run_path(script, run_name="__main__")


def naming_repeated(retrieve: Callable[[Batch], object]) -> Callable[[Batch], object]:
    """``retrieve``, TorchServe's function that makes dictionaries of a batch, with one more header for each request."""

    def retrieve_and_name(batch: Batch) -> object:
        for request in batch:
            names = Tally(parameter["name"] for parameter in request["parameters"])
            repeated = ", ".join(name for name, number in names.items() if number > 1)
            sent = [header for header in request["headers"] if header["name"].lower() != REPEATED.lower()]
            request["headers"] = [*sent, {"name": REPEATED, "value": repeated.encode()}]
        return retrieve(batch)

    return retrieve_and_name


def remove_leftovers() -> None:
    """Remove the models that an earlier TorchServe unpacked into TEMP, which it does not itself when it is killed."""
    if os.environ.get("TEMP"):
        shutil.rmtree(Path(os.environ["TEMP"]) / "models", ignore_errors=True)


if __name__ == "__main__":
    del sys.path[0]  # this folder
    if sys.argv[1:] and sys.argv[1].endswith(".py"):
        run_worker(sys.argv[1])
    else:
        from ts.model_server import start

        remove_leftovers()
        sys.executable = str(Path(__file__).resolve())
        start()
