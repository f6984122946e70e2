"""Count the objects in photos: by a server, or with --archive by a model archive without one.

    python scripts/predict.py PHOTO-OR-FOLDER... [--record FILE-OR-FOLDER] [--url URL | --archive FILE]

With --record each photo is compared with its record, a JSON file in the dataset's format or a list of products: one
file for one photo, or a folder with STEM.json for each photo. Prints one JSON line per photo; the exit code is 1 when a
photo could not be read. Where the gateway demands an API key, it is read from the variable BINWATCH_API_KEY.
"""

import json
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import _cli
from _photos import photos_in, records_of
from serve.archives.archive import ask
from serve.errors import FieldError, PhotoError
from serve.rollout.torchserve_client import Inference
from trainer import entrypoint


def ask_server(server: Inference, path: Path, records: Mapping[Path, object]) -> Mapping[str, object]:
    try:
        photo = path.read_bytes()
        return server.verify(photo, records[path]) if path in records else server.predict(photo)
    except (PhotoError, FieldError) as error:
        return {"error": str(error)}


def main(args: Namespace) -> int:
    paths, server = list(photos_in(args.photos)), Inference(args.url, key=os.environ.get("BINWATCH_API_KEY", ""))
    records = records_of(paths, args.record)
    asked = (ask_server(server, path, records) for path in paths)
    answers = ask(args.archive, paths, records=records) if args.archive else asked
    code = entrypoint.OK
    for path, answer in zip(paths, answers, strict=True):
        print(json.dumps({"photo": str(path), **answer}), flush=True)
        code = entrypoint.ERROR if "error" in answer else code
    return code


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO-OR-FOLDER", help="photos, or folders of them")
    parser.add_argument("--record", type=Path, help="the photo's record, or a folder with STEM.json for each photo")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="address of the gateway or of TorchServe")
    parser.add_argument("--archive", type=Path, help="model archive (.mar) to use instead of a server")
    entrypoint.run(main, parser.parse_args())
