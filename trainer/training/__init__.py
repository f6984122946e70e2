"""From a dataset and a recipe to an archive: networks, the training loop, export."""
