"""The pipeline: its executions and steps, the watcher that triggers them, and the retention of their files."""
