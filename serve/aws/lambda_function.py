"""The Lambda function in front of a SageMaker endpoint, or of your own TorchServe.

    lambda_function.lambda_handler    the entry point for AWS; scripts/deploy_lambda.py deploys it

Events and responses are in serve/aws/lambda_event.py, settings and errors in serve/aws/lambda_upstream.py. Unexpected
exceptions are not caught: Lambda counts and logs them, and API Gateway answers 502.
"""

import os
from functools import lru_cache

from serve.aws.lambda_upstream import Upstream, connect, handle


@lru_cache(1)
def _upstream() -> Upstream:
    """One connection for all invocations of this process."""
    return connect(os.environ)


def lambda_handler(event: object, _context: object) -> dict[str, object]:
    """Answer one event with ``{"statusCode", "headers", "isBase64Encoded", "body"}``."""
    return handle(event, _upstream())
