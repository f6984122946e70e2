"""TorchServe's settings, metrics and launcher."""
