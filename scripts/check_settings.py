"""Check the settings of all containers at once, and whether their user can read photos and records, before one starts.

    docker compose run --rm --no-deps settings     prints a line for each value of .env that cannot be used

BINWATCH_SETTINGS holds a line NAME=VALUE for each variable of .env. The image is built with ``--build``, which checks
the values alone: a build sees neither photos nor API keys. Exit codes: 0 all can be used, 2 some cannot.
"""

import argparse
import os
import sys
from pathlib import Path

from serve.gateway.records.location import is_database, path_problems
from serve.gateway.settings import BIND, TLS_HOST, GatewaySettings
from serve.monitoring.monitor_settings import MonitorSettings
from serve.observe.observe_settings import AlertmanagerSettings
from serve.proxy.proxy_settings import ProxySettings
from serve.settings import problems_of
from serve.settings.worker_check import worker_problems
from trainer import entrypoint
from trainer.pipeline.source_check import source_problems
from trainer.pipeline.trainer_settings import TrainerSettings
from trainer.promotion.promoter_settings import PromoterSettings

CLASSES = (TrainerSettings, PromoterSettings, MonitorSettings, ProxySettings, AlertmanagerSettings)


def main(args: argparse.Namespace) -> int:
    lines = os.environ.get("BINWATCH_SETTINGS", "").splitlines()
    environ = {**os.environ, **{name: text for name, _, text in (line.partition("=") for line in lines)}}
    # whether there are the keys that these demand is seen when the container runs
    fenced = {name: text for name, text in environ.items() if not args.build or name not in (BIND, TLS_HOST)}
    problems = [problem for cls in CLASSES for problem in problems_of(cls, environ)] + worker_problems(environ)
    problems += problems_of(GatewaySettings, fenced)
    data = environ.get("BINWATCH_DATA", "").strip()
    if data and not data.startswith("s3://") and not args.build:
        problems += source_problems(Path(data))
    records = environ.get("BINWATCH_RECORDS", "").strip()
    if records and not is_database(records) and not args.build:
        problems += path_problems(Path(records))
    by_variable = {problem.partition(" is ")[0]: problem for problem in reversed(problems)}  # several services have it
    for problem in reversed(by_variable.values()):
        print(f"error: {problem}", file=sys.stderr)
    return entrypoint.USAGE if problems else entrypoint.OK


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build", action="store_true", help="check the values alone")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    entrypoint.run(main, parser.parse_args())
