"""The project on AWS: SageMaker and Lambda. Nothing else in the project imports it."""
