"""The champion behind a SageMaker endpoint: choosing, packaging, deploying, scaling and removing it."""
