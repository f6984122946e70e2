"""What runs in AWS: the Lambda, and the handler for containers whose Python is too old for the archive's code."""
