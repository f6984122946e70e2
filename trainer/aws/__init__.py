"""The AWS path: the same project on SageMaker. Requests are values; nothing at run time depends on it."""
