"""The Lambda in front of a SageMaker endpoint, or of a TorchServe of one's own.

    lambda_function.lambda_handler    what AWS calls; scripts/deploy_lambda.py deploys it

Events and answers are in serve/lambda_event.py, settings and errors in serve/lambda_upstream.py. A fault of ours is
not caught: Lambda counts and logs it, and API Gateway answers 502.
"""

import os
from functools import lru_cache
from typing import Any

from serve.aws.lambda_upstream import Upstream, answered, connected


@lru_cache(1)
def _upstream() -> Upstream:
    """Connected once for all requests of this process."""
    return connected(os.environ)


def lambda_handler(event: Any, _context: Any) -> dict[str, Any]:
    """Answer one event with ``{"statusCode", "headers", "isBase64Encoded", "body"}``."""
    return answered(event, _upstream())
