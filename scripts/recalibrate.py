"""Calibrate the champion's conformal scores again from recounts of the random share, without training.

    python scripts/recalibrate.py               a version with the champion's network and other scores, through the gate
    python scripts/recalibrate.py --dry-run     print what would change, and how the gate would decide

Then the promoter deploys it as any version. Exit code 3: the gate refused it, or no count has enough recounts.
In containers: docker compose exec trainer python scripts/recalibrate.py
"""

from argparse import Namespace

import _cli
from trainer import entrypoint
from trainer.evaluation.policy import GatePolicy
from trainer.pipeline.recalibration.from_settings import recalibrate_once
from trainer.pipeline.recalibration.recalibration_report import RecalibrationStatus
from trainer.pipeline.trainer_settings import TrainerSettings

UNCHANGED = (RecalibrationStatus.NOTHING, RecalibrationStatus.REFUSED)


def main(args: Namespace) -> int:
    settings = _cli.read_settings(TrainerSettings, args)
    report = recalibrate_once(settings, dry_run=args.dry_run)
    _cli.emit(args, report.to_json(), report.in_words())
    return entrypoint.REFUSED if report.status in UNCHANGED else entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    _cli.add_settings(parser, TrainerSettings, "recounts", "state")
    _cli.add_settings(parser, GatePolicy, "guard_level", "alpha")
    parser.add_argument("--dry-run", action="store_true", help="change nothing")
    entrypoint.run(main, parser.parse_args())
