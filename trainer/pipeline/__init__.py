"""The pipeline: executions of train, evaluate, gate and promote, when they start, and what is kept of them."""
