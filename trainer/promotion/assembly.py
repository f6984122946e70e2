"""Builds the promoter, its servers and their autoscalers from the settings."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

from serve.errors import SettingsError
from serve.rollout.autoscale import MAX_WORKERS, Autoscaler
from serve.rollout.rollout import Rollout
from serve.rollout.torchserve_client import Inference, Management, Metrics
from serve.routing.route_board import RouteBoard
from trainer.artifacts import ACCURACY
from trainer.promotion.fleet.fleet import Fleet
from trainer.promotion.fleet.fleet_metrics import registry_of
from trainer.promotion.fleet.instance import InstancePlan
from trainer.promotion.fleet.promoter_lock import PromoterLock
from trainer.promotion.fleet.server_addresses import (
    ARCHIVES_PATH,
    ServerAddress,
    find_servers,
    look_up,
    look_up_names,
    parse_servers,
)
from trainer.promotion.promoter import Promoter
from trainer.promotion.promoter_settings import PromoterSettings
from trainer.promotion.server import Server
from trainer.promotion.trials import Trials
from trainer.registry import signing
from trainer.registry.mlflow_registry import Registry

SETTINGS = ("inference_url", "management_url", "metrics_url", "model_store", "workers", "verify_key", "autoscale")
"""The settings that are also options of scripts/promote.py."""


def build_rollout(settings: PromoterSettings) -> Rollout:
    """The server side of a promotion."""
    return Rollout(
        Inference(settings.inference_url),
        Management(settings.management_url),
        settings.model_store,
        settings.workers or min(MAX_WORKERS, len(os.sched_getaffinity(0))),
        Metrics(settings.metrics_url),
        settings.probation,
    )


def build_dry_autoscaler(settings: PromoterSettings) -> Autoscaler:
    """An autoscaler of the one TorchServe that only logs its decisions."""
    return build_autoscaler(settings, build_rollout(settings), dry_run=True)


def build_autoscaler(settings: PromoterSettings, rollout: Rollout, dry_run: bool) -> Autoscaler:
    """The autoscaler of ``rollout``'s workers."""
    scaling = settings.scaling.fitted_to(os.cpu_count() or 1)
    return Autoscaler(Management(settings.management_url), Metrics(settings.metrics_url), rollout, scaling, dry_run)


@dataclass(frozen=True, kw_only=True)
class ServerSide:
    """One TorchServe or several. ``board``: what gateways are told, if any ask; ``door``: answers them, in a block."""

    server: Server
    scale: Callable[[], object]
    board: RouteBoard | None = None
    door: Callable[[], AbstractContextManager[None]] = nullcontext


def build_server_side(settings: PromoterSettings, watches: bool) -> ServerSide:
    """The servers of the settings. ``watches``: for a promoter that goes on, rather than for one command."""
    if watches and settings.rollout.stages and not settings.fleet.promoter_listen:
        raise SettingsError("set BINWATCH_PROMOTER_LISTEN, too: gateways ask there for the shares of BINWATCH_ROLLOUT")
    if not settings.fleet.are_set:
        rollout = build_rollout(settings)
        return ServerSide(server=rollout, scale=build_autoscaler(settings, rollout, dry_run=False).step)
    board = RouteBoard()
    fleet = build_fleet(settings, board, watches)
    return ServerSide(
        server=fleet,
        scale=fleet.scale,
        board=board if watches else None,
        door=partial(_door, settings, fleet, board),
    )


def build_fleet(settings: PromoterSettings, board: RouteBoard, watches: bool) -> Fleet:
    """The servers that BINWATCH_SERVERS names, or the one TorchServe of a single machine."""
    options = settings.fleet
    if options.servers:
        find = partial(find_servers, parse_servers(options.servers), look_up, look_up_names)
    else:
        find = partial(_local_server, settings)
    plan = InstancePlan(
        store=settings.model_store,
        workers=settings.workers,
        probation=settings.probation,
        scaling=settings.scaling.fitted_to(os.cpu_count() or 1),
        archives_url=f"{options.promoter_url}{ARCHIVES_PATH}" if options.servers else "",
    )
    shared_lock = PromoterLock(options.promoter_lock, watches) if options.promoter_lock else None
    return Fleet(find, plan, board, shared_lock, options.instances)


def _local_server(settings: PromoterSettings) -> list[ServerAddress]:
    inference = settings.inference_url
    return [
        ServerAddress(
            inference=inference,
            management=settings.management_url,
            metrics=settings.metrics_url,
            published=inference,
        )
    ]


def _door(settings: PromoterSettings, fleet: Fleet, board: RouteBoard) -> AbstractContextManager[None]:
    if not settings.fleet.promoter_listen:
        return nullcontext()
    from trainer.promotion.fleet.door import Door, opened  # commands without a door do without uvicorn

    host, _, port = settings.fleet.promoter_listen.rpartition(":")
    return opened(Door(board, settings.model_store, registry_of(fleet, board)), host, int(port))


def build_promoter(
    settings: PromoterSettings, registry: Registry, server: Server, board: RouteBoard | None = None
) -> Promoter:
    """The promoter from ``registry`` to ``server``."""
    trusted = settings.verify_key or signing.trusted_keys(settings.state)
    trials = Trials(registry, settings.rollout, settings.probation, board)
    return Promoter(registry, server, settings.model_store / ACCURACY, settings.gate, trusted, trials)
