"""Reports for people: the history, the lineage of a version, and the monitoring runs in MLflow."""
