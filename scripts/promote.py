"""Promote what the gate approved, and make TorchServe follow the champion; with --watch, for ever.

    python scripts/promote.py                   decide what is undecided, promote what is approved, once
    python scripts/promote.py --watch           the promoter; with --autoscale it adapts the number of workers, too
    python scripts/promote.py --rollback [WHY]  return to the previous version, also while a promoter watches
    python scripts/promote.py --explain [V]     explain the decision about the newest version, or about V
    python scripts/promote.py --history         list which version served when, and why
    python scripts/promote.py --dry-run         promote and change nothing: log what autoscaling would do, for ever
Without --watch, the exit code is 3 when the newest version was refused, rolled back or its canary failed.
"""

import os
from argparse import Namespace
from threading import Event

import _cli
import _options
from serve.rollout import autoscale
from trainer import entrypoint
from trainer.evaluation.policy import GatePolicy
from trainer.promotion import assembly, decisions
from trainer.promotion.promoter_settings import PromoterSettings
from trainer.promotion.promotion_loop import watch
from trainer.registry.mlflow_registry import Registry
from trainer.reporting import history


def main(args: Namespace) -> int:
    settings = _cli.read_settings(PromoterSettings, args)
    stop = entrypoint.stop_on_sigterm() if args.watch or args.dry_run else Event()
    if args.dry_run:
        autoscale.watch(assembly.build_dry_autoscaler(settings), args.interval, stop)
        return entrypoint.OK
    registry = Registry(settings.tracking_uri)
    if args.explain:
        decision, text = decisions.find_and_explain(registry, args.explain)
        _cli.emit(args, decision.to_json(), text)
    if args.history:
        content = history.HistoryExporter(settings.tracking_uri).read()
        _cli.emit(args, content, history.serving_table(content["served"]))
    if args.explain or args.history:
        return entrypoint.OK
    servers = assembly.build_server_side(settings, args.watch)
    promoter = assembly.build_promoter(settings, registry, servers.server, servers.board)
    if args.watch:
        os.nice(5)  # what answers requests comes first
        with servers.door():
            watch(promoter, args.heartbeat, args.interval, stop, servers.scale if settings.autoscale else None)
        return entrypoint.OK
    outcome = promoter.reconcile() if args.rollback is None else promoter.roll_back(args.rollback)
    _cli.emit(args, vars(outcome), f"{outcome.did} version {outcome.version or '-'}: {outcome.reason}")
    return entrypoint.REFUSED if args.rollback is None and decisions.is_newest_unwanted(registry) else entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    _cli.add_settings(parser, PromoterSettings, *assembly.SETTINGS)
    _cli.add_settings(parser, GatePolicy)
    _options.add_promoter(parser)
    entrypoint.run(main, parser.parse_args())
