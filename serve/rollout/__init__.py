"""Deploying to TorchServe: its APIs, the model store, canary, probation, rollout, autoscaling."""
