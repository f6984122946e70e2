"""What the gateway tells Prometheus besides its own requests: the monitoring's report and the history."""
