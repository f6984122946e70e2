"""Many trainings: the search for hyperparameters, the runners of its jobs, and trainings side by side."""
