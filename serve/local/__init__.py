"""MLflow, TorchServe, the gateway and an S3 store as child processes, for a machine without Docker."""
