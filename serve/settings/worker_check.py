"""The settings of TorchServe's workers, which travel in archives and have no class: what of them cannot be used."""

from collections.abc import Mapping

from serve import capture, links, verdict
from serve.environment import Variables


def worker_problems(environ: Mapping[str, str]) -> list[str]:
    """What the environment sets that a worker would refuse or replace by its default, a sentence each."""
    read = Variables(environ)
    verdict.read_alpha(read)
    verdict.read_novelty_limit(read)
    links.read_store(read)
    capture.read_settings(read)
    return read.problems
