"""The main job on one machine without Docker: MLflow, TorchServe, the gateway, three executions, one prediction.

    python scripts/demo.py [--once] [--data D] [--counts 1-5] [--limit N]

A first model of few epochs answers soon; the gate refuses one that learned from a tenth of the photos; one that
learned in full replaces the first. The gateway judges a record and a wrong one. The summary is in var/demo.json.
"""

import json
import sys
import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event

import _cli
import _options
from serve.local.local_stack import local_stack
from trainer import entrypoint, options
from trainer.artifacts import ACCURACY
from trainer.pipeline.programs import demonstrate
from trainer.promotion.promoter import Promoter
from trainer.promotion.promotion_loop import watch
from trainer.registry import signing
from trainer.registry.mlflow_registry import Registry


def main(args: Namespace) -> int:
    start = time.monotonic()
    recipe = options.recipe(args.recipe or ("resnet18-small" if args.data else "demo"), vars(args))
    drawing = ThreadPoolExecutor(1).submit(options.data_spec, vars(args), args.state / "drawn")
    with suppress(TimeoutError):
        drawing.result(1)  # the servers start while bins are drawn, but not if the options are wrong
    trusted = signing.ensure_local_keys(args.state)
    with local_stack(args.state / "demo") as stack:
        spec, registry = drawing.result(), Registry(stack.mlflow_url)
        promoter = Promoter(registry, stack.rollout(), stack.store / ACCURACY, trusted=trusted)
        demonstration = demonstrate(registry, spec, recipe, promoter.promote, stack, start)
        seconds = round(time.monotonic() - start, 1)
        summary = {**demonstration.to_json(), "seconds": seconds}
        (args.state / "demo.json").write_text(json.dumps(summary, indent=1))
        lines = [*demonstration.in_words(), *(f"{name:<15} {text}" for name, text in stack.addresses().items())]
        times = f"{seconds} s in all, {demonstration.first_answer_s} s to the first answer"
        _cli.emit(args, summary, "\n".join([*lines, f"{times}; the summary is in var/demo.json"]))
        if not args.once:
            print("Running until Ctrl-C; what the gate approves from now on is promoted.", file=sys.stderr)
            watch(promoter, args.state / "demo" / "heartbeat", 3, Event())
    return entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("--once", action="store_true", help="end when done, and stop what was started")
    parser.add_argument("--recipe", help="how to train; unless given, drawn bins by demo, photos by resnet18-small")
    parser.add_argument("--state", type=Path, default=Path("var"), help="folder that everything is written to")
    _options.add_data(parser, {})
    _options.add_recipe(parser, {})
    entrypoint.run(main, parser.parse_args())
