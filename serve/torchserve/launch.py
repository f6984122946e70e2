#!/usr/bin/env python3
"""Start TorchServe, with workers that import torch only if they need it. Takes the options of `torchserve`.

TorchServe's worker imports torch only to check whether an answer is a tensor. On a CPU nothing else needs it, and the
import costs each starting worker its memory and seconds of a core that the serving workers need. TorchServe starts its
workers with ``sys.executable``, so this sets that to this file, which then poses as a Python interpreter.

TorchServe's worker also makes a dictionary of a request's fields, in which the last of two with the same name wins. So
the names of such fields are passed on to the handler, which refuses the request.

With BINWATCH_MANAGEMENT_NETWORK, a network such as 10.90.7.0/24, TorchServe is managed from another host: management
and metrics listen on this host's address in that network, and nowhere else, at the two ports after that of inference.
Archives are then fetched from the promoter, and from nobody else, at BINWATCH_PROMOTER_URL (http://promoter:8090).
"""

import importlib
import ipaddress
import os
import re
import runpy
import shutil
import sys
import tempfile
from collections import Counter as Tally
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from socket import AF_INET, SOCK_DGRAM, socket
from types import ModuleType
from typing import Any, TypeAlias

REPEATED = b"X-Binwatch-Repeated"
"""A header that the handler gets: the names of the fields that query and form have more than once."""
PROMOTER_URL = "http://promoter:8090"
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


def networked(environ: Mapping[str, str], config: str) -> str:
    """TorchServe's configuration for being managed over a network; ``config`` without BINWATCH_MANAGEMENT_NETWORK.

    Raises ValueError.
    """
    text = environ.get("BINWATCH_MANAGEMENT_NETWORK", "").strip()
    if not text:
        return config
    address = address_in(text)
    port = int(_property(config, "inference_address").rpartition(":")[2])
    promoter = (environ.get("BINWATCH_PROMOTER_URL", "").strip() or PROMOTER_URL).rstrip("/")
    properties = {
        "management_address": f"http://{address}:{port + 1}",
        "metrics_address": f"http://{address}:{port + 2}",
        "allowed_urls": f"{promoter.replace('.', '[.]')}/archives/.*",
    }
    lines = [line for line in config.splitlines() if line.partition("=")[0] not in properties]
    return "\n".join([*lines, *(f"{name}={value}" for name, value in properties.items()), ""])


def address_in(text: str) -> str:
    """This host's address in a network. Raises ValueError where it has none."""
    network = ipaddress.IPv4Network(text)
    neighbour = str(network[-1] if network.num_addresses == 1 else network[1])
    with socket(AF_INET, SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect((neighbour, 9))  # chooses this host's address and sends nothing
        address = str(probe.getsockname()[0])
        if ipaddress.IPv4Address(address) in network:
            return address
    raise ValueError(f"BINWATCH_MANAGEMENT_NETWORK is {text!r}, and this host has no address in it; is it attached?")


def prepare_network() -> None:
    """Start with the configuration of ``networked``, and without the archives that an earlier TorchServe had fetched.

    TorchServe does not fetch an archive again whose file is there, and leaves the file when it is killed.
    """
    if "--ts-config" not in sys.argv:
        return
    place = sys.argv.index("--ts-config") + 1
    config = Path(sys.argv[place]).read_text()
    changed = networked(os.environ, config)
    if changed != config:
        sys.argv[place] = str(Path(tempfile.mkdtemp(prefix="binwatch-"), "config.properties"))
        Path(sys.argv[place]).write_text(changed)
        for archive in Path(_property(config, "model_store")).glob("*.mar"):
            archive.unlink(missing_ok=True)


def _property(config: str, name: str) -> str:
    """A property of TorchServe's configuration. Raises ValueError where it is not set."""
    match = re.search(rf"^{name}=(.+)$", config, re.MULTILINE)
    if match is None:
        raise ValueError(f"the file of --ts-config does not set {name}")
    return match[1].strip()


if __name__ == "__main__":
    del sys.path[0]  # this folder
    if sys.argv[1:] and sys.argv[1].endswith(".py"):
        run_worker(sys.argv[1])
    else:
        from ts.model_server import start

        remove_leftovers()
        try:
            prepare_network()
        except ValueError as error:
            sys.exit(f"error: {error}")
        sys.executable = str(Path(__file__).resolve())
        start()
