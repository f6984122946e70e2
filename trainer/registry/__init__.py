"""MLflow: runs, the model registry, deployments, and signed archives."""
