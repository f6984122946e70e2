"""The champion behind a SageMaker endpoint: chosen, packaged, deployed, scaled, removed."""
