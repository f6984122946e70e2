"""TorchServe under control: its APIs, the model store, canary, probation, rollout, autoscaling."""
