"""Count the objects in photos: by a server, or with --archive by a model archive without one.

    python scripts/predict.py PHOTO-OR-FOLDER... [--url http://127.0.0.1:8080 | --archive FILE]

Prints one JSON line per photo; the exit code is 1 when a photo could not be read. Where the gateway demands an API key,
it is read from the variable BINWATCH_API_KEY.
"""

import json
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path

import _cli
from serve.archives.archive import ask
from serve.errors import DataError, PhotoError
from serve.rollout.torchserve_client import Inference
from trainer import entrypoint

SUFFIXES = (".jpg", ".jpeg", ".png")


def photos_in(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.exists():
            raise DataError(f"there is no file or folder {path}")
        photos = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not photos:
            raise DataError(f"the folder {path} holds no .jpg, .jpeg or .png file")
        yield from photos


def ask_server(server: Inference, path: Path) -> Mapping[str, object]:
    try:
        return server.predict(path.read_bytes())
    except PhotoError as error:
        return {"error": str(error)}


def main(args: Namespace) -> int:
    paths, server = list(photos_in(args.photos)), Inference(args.url, key=os.environ.get("BINWATCH_API_KEY", ""))
    answers = ask(args.archive, paths) if args.archive else (ask_server(server, path) for path in paths)
    code = entrypoint.OK
    for path, answer in zip(paths, answers, strict=True):
        print(json.dumps({"photo": str(path), **answer}), flush=True)
        code = entrypoint.ERROR if "error" in answer else code
    return code


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO-OR-FOLDER", help="photos, or folders of them")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="address of the gateway or of TorchServe")
    parser.add_argument("--archive", type=Path, help="model archive (.mar) to use instead of a server")
    entrypoint.run(main, parser.parse_args())
