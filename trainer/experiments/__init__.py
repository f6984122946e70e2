"""Many trainings: the hyperparameter search, the runners of its jobs, and comparisons of trainings."""
