"""Where an answer comes from: version, run, data, code, decision, and when it served.

python scripts/lineage.py VERSION     an answer's model_version
python scripts/lineage.py EVENT_ID    an answer's event_id: the version is looked up in the data capture
"""

from argparse import Namespace

import _cli
import _options
from serve.monitoring import find_event
from serve.monitoring.reader import open_source
from serve.settings.common import CaptureSettings
from trainer import entrypoint
from trainer.registry import signing
from trainer.registry.mlflow_registry import Registry
from trainer.reporting.lineage import lineage_text, trace_lineage


def main(args: Namespace) -> int:
    version, capture = args.what, _cli.read_settings(CaptureSettings, args)
    if "-" in version:
        version = find_event.version_of(open_source(capture.capture, capture.s3_endpoint), version)
    trusted = signing.trusted_keys(args.state)
    lineage = trace_lineage(Registry(args.tracking_uri), version, trusted if trusted.exists() else None)
    _cli.emit(args, lineage.to_json(), lineage_text(lineage))
    return entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("what", metavar="VERSION|EVENT_ID")
    _cli.add_settings(parser, CaptureSettings, "capture")
    _options.add_state(parser, "folder whose keys/ has the trusted keys")
    entrypoint.run(main, parser.parse_args())
