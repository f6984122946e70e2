"""sagemaker-inference's Transformer without a server: MODEL PHOTO -> its answers to the photo and to a broken one.

It runs in the environment of AWS's toolkits, with code/ on PYTHONPATH, and prints a line of JSON for each answer.
"""

import json
import sys
from pathlib import Path

from sagemaker_inference.transformer import Transformer  # type: ignore[import-not-found]
from ts.context import Context, RequestProcessor

HEADERS = {"Content-Type": "image/jpeg", "X-Amzn-SageMaker-Custom-Attributes": "expected_quantity=3"}


def main(model: str, photo: Path) -> None:
    context = Context("model", model, {}, 1, None, "1")
    transformer = Transformer()
    transformer.validate_and_initialize(model_dir=model, context=context)
    for body in (photo.read_bytes(), photo.read_bytes()[:900]):
        context.request_processor = [RequestProcessor(HEADERS)]
        (answer,) = transformer.transform([{"body": body}], context)
        status, content_type = context.get_response_status(0)[0], context.get_response_content_type(0)
        print(json.dumps({"status": status, "content_type": content_type, "body": answer}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
