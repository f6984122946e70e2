#!/usr/bin/env python3
"""Start TorchServe, with workers that import torch only if they need it. Takes the options of `torchserve`.

TorchServe's worker imports torch to see whether an answer is a tensor, and on a CPU nothing else of a worker needs it:
it would cost each of them seconds of a core, just when the others answer, and its memory. TorchServe starts its workers
with the Python that it runs on itself, so it is told that this file is one.
"""

import importlib
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


class Later(ModuleType):
    """A module that is imported with the first look at anything in it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


def run(script: str) -> None:
    """Run TorchServe's worker as Python does, its options being what follows it in the command."""
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(script).parent))
    sys.modules["torch"] = Later("torch")
    importlib.import_module("ts.protocol.otf_message_handler")
    del sys.modules["torch"]  # whoever imports it from now on gets the real one
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    del sys.path[0]  # this folder
    if sys.argv[1:] and sys.argv[1].endswith(".py"):
        run(sys.argv[1])
    else:
        from ts.model_server import start

        sys.executable = str(Path(__file__).resolve())
        start()
