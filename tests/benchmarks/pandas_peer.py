"""The peer of the monitoring benchmark: parse every captured line with ``json``, summarise with one pandas DataFrame.

python -m tests.benchmarks.pandas_peer CAPTURE
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas  # type: ignore[import-untyped]


def summarise(capture: Path) -> Mapping[str, object]:
    """A summary per hour, as examples for SageMaker's data capture compute it."""
    rows = []
    for path in sorted(capture.rglob("*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            answer = json.loads(record["captureData"]["endpointOutput"]["data"])
            rows.append(
                {
                    **record["eventMetadata"],
                    **record["eventMetadata"]["binwatch"],
                    **answer,
                    "input": record["captureData"]["endpointInput"]["data"],
                }
            )
    table = pandas.DataFrame(rows)
    table["time"] = pandas.to_datetime(table["inferenceTime"])
    table["confidence"] = [max(row.values()) if isinstance(row, dict) else None for row in table["probabilities"]]
    hours = table.groupby(table["time"].dt.floor("h"))
    return {
        "requests": hours.size().to_dict(),
        "errors": int((table["status"] >= 400).sum()),
        "confidence_mean": hours["confidence"].mean().to_dict(),
        "confidence_p10": hours["confidence"].quantile(0.1).to_dict(),
        "latency_p50_ms": hours["latency_ms"].quantile(0.5).to_dict(),
        "latency_p99_ms": hours["latency_ms"].quantile(0.99).to_dict(),
        "counts": table.groupby([table["time"].dt.floor("h"), "count"]).size().to_dict(),
        "verdicts": table.groupby([table["time"].dt.floor("h"), "verdict"]).size().to_dict(),
        "model_versions": table["model_version"].value_counts().to_dict(),
    }


if __name__ == "__main__":
    summarise(Path(sys.argv[1]))
