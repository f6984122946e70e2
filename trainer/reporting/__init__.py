"""What people look up later: history, lineage, and the monitoring runs in MLflow."""
