#!/usr/bin/env python3
"""Start TorchServe, with workers that import torch only if they need it. Takes the options of `torchserve`.

TorchServe's worker imports torch only to check whether an answer is a tensor. On a CPU nothing else needs it, and the
import costs each starting worker its memory and seconds of a core that the serving workers need. TorchServe starts its
workers with ``sys.executable``, so this sets that to this file, which then poses as a Python interpreter.
"""

import importlib
import runpy
import sys
from pathlib import Path
from types import ModuleType


class LazyModule(ModuleType):
    """A module that is imported when one of its attributes is first accessed."""

    def __getattr__(self, name: str) -> object:
        return getattr(importlib.import_module(self.__name__), name)


def run_worker(script: str) -> None:
    """Run TorchServe's worker script as Python would, with the options that follow it on the command line."""
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(script).parent))
    sys.modules["torch"] = LazyModule("torch")
    importlib.import_module("ts.protocol.otf_message_handler")
    del sys.modules["torch"]  # later imports get the real module
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    del sys.path[0]  # this folder
    if sys.argv[1:] and sys.argv[1].endswith(".py"):
        run_worker(sys.argv[1])
    else:
        from ts.model_server import start

        sys.executable = str(Path(__file__).resolve())
        start()
