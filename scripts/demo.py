"""The main job on one machine without Docker: MLflow, TorchServe, the gateway, two executions, one prediction.

    python scripts/demo.py [--once] [--data D] [--counts 1-5] [--limit N]

The first execution trains and is promoted; the second one gets a tenth of the training photos,
the same test photos, and is refused. The summary is written to var/demo.json.
"""

import json
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Event

import _cli
from serve.local.servers import free_port, gateway_server, mlflow_server, torchserve_server
from serve.rollout.probation import ProbationPolicy
from serve.rollout.rollout import Rollout
from serve.rollout.torchserve_client import Inference, Management
from trainer import entrypoint, options
from trainer.artifacts import ACCURACY
from trainer.data.dataset import DataSpec
from trainer.data.prepared import splits_of
from trainer.pipeline.execution import Execution
from trainer.pipeline.pipeline import execute
from trainer.promotion.promoter import Promoter
from trainer.promotion.promotion_loop import watch
from trainer.registry import signing
from trainer.registry.mlflow_registry import Registry

SMALL_SHARE = 0.1
"""Share of the training photos that the second execution gets."""


def main(args: Namespace) -> int:
    start = time.monotonic()
    spec = options.data_spec(vars(args), args.state / "drawn")
    recipe = options.recipe(args.recipe, vars(args))
    home, trusted = fresh(args.state / "demo"), signing.ensure_local_keys(args.state)
    environ = {f"BINWATCH_{name.upper()}": str(home.resolve() / name) for name in ("capture", "monitoring")}
    with ExitStack() as stack:
        mlflow_url = stack.enter_context(mlflow_server(home / "mlflow", free_port(5000)))
        inference_url, management_url, store = stack.enter_context(
            torchserve_server(home / "torchserve", free_port(8080), environ)
        )
        gateway_url = stack.enter_context(gateway_server(home / "gateway", inference_url, free_port(8000), environ))
        registry, inference = Registry(mlflow_url), Inference(inference_url)
        # The containers watch a new champion for 30 s (BINWATCH_WATCH_S). Here it gets no requests that could be
        # watched, and the demo is to be quick.
        server = Rollout(inference, Management(management_url), store, policy=ProbationPolicy(duration_s=0))
        promoter = Promoter(registry, server, store / ACCURACY, trusted=trusted)

        specs = (spec, replace(spec, train_share=SMALL_SHARE))
        executions = [execute(registry, data, recipe, promoter.promote) for data in specs]
        prediction = predict_one(spec, inference)
        seconds = round(time.monotonic() - start, 1)
        summary = {
            "executions": [execution.to_json() for execution in executions],
            "prediction": prediction,
            "seconds": seconds,
        }
        (args.state / "demo.json").write_text(json.dumps(summary, indent=1))
        addresses = {
            "page": gateway_url,
            "MLflow UI": mlflow_url,
            "predictions": f"curl -T PHOTO.jpg {inference_url}/predictions/bin-counter",
        }
        lines = [*describe(executions, prediction), *(f"{name:<15} {text}" for name, text in addresses.items())]
        _cli.emit(args, summary, "\n".join([*lines, f"{seconds} s in all; the summary is in var/demo.json"]))
        if not args.once:
            print("Running until Ctrl-C; what the gate approves from now on is promoted.", file=sys.stderr)
            watch(promoter, home / "heartbeat", 3, Event())
    return entrypoint.OK


def fresh(home: Path) -> Path:
    """An empty folder; that of the previous demo is kept as <name>.previous."""
    previous = home.with_name(home.name + ".previous")
    if home.exists():
        shutil.rmtree(previous, ignore_errors=True)
        home.rename(previous)
    home.mkdir(parents=True)
    return home


def predict_one(spec: DataSpec, inference: Inference) -> dict[str, object]:
    """Ask the server about one photo of the test split."""
    photos, splits = splits_of(spec)
    photo = next(photo for photo in photos if splits[photo.id] == "test")
    return {"photo": str(photo.path), "recorded": photo.count, **inference.predict(photo.path.read_bytes())}


def describe(executions: Sequence[Execution], answer: dict[str, object]) -> list[str]:
    """What the demo did, for people."""
    lines = [
        f"execution {number}: {execution.decision} in {sum(step.seconds for step in execution.steps):.0f} s: "
        f"{'; '.join(execution.reasons)}"
        for number, execution in enumerate(executions, 1)
    ]
    prediction = (
        f"prediction: {answer['count']} objects (recorded {answer['recorded']}) by version {answer['model_version']}"
        f" for {answer['photo']}"
    )
    return [*lines, prediction]


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("--once", action="store_true", help="end when done, and stop what was started")
    parser.add_argument("--recipe", default="resnet18-small", help="how to train")
    parser.add_argument("--state", type=Path, default=Path("var"), help="folder that everything is written to")
    _cli.add_data_options(parser, {})
    _cli.add_recipe_options(parser, {})
    entrypoint.run(main, parser.parse_args())
