"""The code that runs in AWS: the Lambda function, and the entry point for old SageMaker containers."""
