"""The main job on one machine without Docker: MLflow, TorchServe, the gateway, two executions, one prediction.

    python scripts/demo.py [--once] [--data D] [--counts 1-5] [--limit N]

The first execution trains and is promoted; the second one gets a tenth of the training photos,
the same test photos, and is refused. The summary lands in var/demo.json.
"""

import json
import shutil
import sys
import time
from argparse import Namespace
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import _cli
from serve.local.servers import free_port, gateway_server, mlflow_server, torchserve_server
from serve.rollout.rollout import Rollout
from serve.rollout.torchserve_client import Inference, Management
from trainer import entrypoint, options
from trainer.data.dataset import DataSpec
from trainer.data.prepared import splits_of
from trainer.pipeline.pipeline import execute
from trainer.promotion.promoter import Promoter, watch
from trainer.registry import signing
from trainer.registry.mlflow_registry import Registry

STARVED = 0.1


def main(args: Namespace) -> int:
    start = time.monotonic()
    spec = options.data_spec(vars(args), args.state / "drawn")
    recipe = options.recipe(args.recipe, vars(args))
    home, trusted = fresh(args.state / "demo"), signing.ensure_local_keys(args.state)
    kept = {
        "BINWATCH_CAPTURE": str(home.resolve() / "capture"),
        "BINWATCH_MONITORING": str(home.resolve() / "monitoring"),
    }
    with ExitStack() as stack:
        mlflow_url = stack.enter_context(mlflow_server(home / "mlflow", free_port(5000)))
        inference_url, management_url, store = stack.enter_context(
            torchserve_server(home / "torchserve", free_port(8080), kept)
        )
        gateway_url = stack.enter_context(gateway_server(home / "gateway", inference_url, free_port(8000), kept))
        registry, inference = Registry(mlflow_url), Inference(inference_url)
        server = Rollout(inference, Management(management_url), store)
        promoter = Promoter(registry, server, store / "accuracy.json", trusted=trusted)

        executions = [
            execute(registry, each, recipe, promoter.promote) for each in (spec, replace(spec, train_share=STARVED))
        ]
        prediction = predict_one(spec, inference)
        summary = {
            "executions": [each.to_json() for each in executions],
            "prediction": prediction,
            "seconds": round(time.monotonic() - start, 1),
        }
        (args.state / "demo.json").write_text(json.dumps(summary, indent=1))
        _cli.emit(args, summary, describe(summary, mlflow_url, inference_url, gateway_url))
        if not args.once:
            print("Running until Ctrl-C; what the gate approves from now on is promoted.", file=sys.stderr)
            watch(promoter, home / "heartbeat", 3, Event())
    return entrypoint.OK


def fresh(home: Path) -> Path:
    """An empty folder; the one of the demo before is kept as <name>.previous."""
    previous = home.with_name(home.name + ".previous")
    if home.exists():
        shutil.rmtree(previous, ignore_errors=True)
        home.rename(previous)
    home.mkdir(parents=True)
    return home


def predict_one(spec: DataSpec, inference: Inference) -> dict[str, object]:
    """Ask the server about one photo of the test split."""
    photos, splits = splits_of(spec)
    photo = next(each for each in photos if splits[each.id] == "test")
    return {"photo": str(photo.path), "recorded": photo.count, **inference.predict(photo.path.read_bytes())}


def describe(summary: dict[str, Any], mlflow_url: str, inference_url: str, gateway_url: str) -> str:
    """What the demo did, for people."""
    lines = []
    for number, execution in enumerate(summary["executions"], 1):
        seconds = sum(step["seconds"] for step in execution["steps"])
        lines.append(
            f"execution {number}: {execution['decision']} in {seconds:.0f} s: {'; '.join(execution['reasons'])}"
        )
    answer = summary["prediction"]
    lines += [
        f"prediction: {answer['count']} objects (recorded {answer['recorded']}) by version {answer['model_version']}"
        f" for {answer['photo']}",
        f"page            {gateway_url}",
        f"MLflow UI       {mlflow_url}",
        f"predictions     curl -T PHOTO.jpg {inference_url}/predictions/bin-counter",
        f"{summary['seconds']} s in all; the summary is in var/demo.json",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("--once", action="store_true", help="end when done, and stop what was started")
    parser.add_argument("--recipe", default="resnet18-small")
    parser.add_argument("--state", type=Path, default=Path("var"))
    _cli.add_data_options(parser, {})
    _cli.add_recipe_options(parser, {})
    entrypoint.run(main, parser.parse_args())
