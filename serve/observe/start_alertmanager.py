"""Starts Alertmanager in its container: python3 start_alertmanager.py FOLDER, which holds alertmanager.yml.

Alertmanager reads no environment variables, so this enters BINWATCH_ALERTMANAGER_WEBHOOK into a copy of the file.
Without the variable nobody is notified; the alerts are still listed on its page.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

NOBODY = "webhook_configs: []"


def with_webhook(text: str, address: str) -> str:
    """The configuration ``text`` with the webhook's address; unchanged where that is empty."""
    if not address:
        return text
    return text.replace(NOBODY, f"webhook_configs: [{{ url: {json.dumps(address)}, send_resolved: true }}]")


def main() -> None:
    """Replace this process by Alertmanager."""
    text = Path(sys.argv[1], "alertmanager.yml").read_text()
    config = Path(tempfile.mkdtemp(), "alertmanager.yml")
    config.write_text(with_webhook(text, os.environ.get("BINWATCH_ALERTMANAGER_WEBHOOK", "").strip()))
    words = ["prometheus-alertmanager", f"--config.file={config}", "--storage.path=/alertmanager"]
    # one Alertmanager, no cluster: without this it listens for others
    os.execvp(words[0], [*words, "--web.listen-address=0.0.0.0:9093", "--cluster.listen-address="])


if __name__ == "__main__":
    main()
