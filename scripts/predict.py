"""Count the objects in photos: ask the server, or with --archive a model archive, no server needed.

    python scripts/predict.py PHOTO-OR-FOLDER... [--url http://127.0.0.1:8080 | --archive FILE]

Prints one JSON line a photo; the exit code is 1 when a photo could not be read.
"""

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _cli
from serve.archives.archive import ask
from serve.errors import DataError, PhotoError
from serve.rollout.torchserve_client import Inference
from trainer import entrypoint


def photos(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.exists():
            raise DataError(f"there is no file or folder {path}")
        found = (
            sorted(each for each in path.iterdir() if each.suffix.lower() in (".jpg", ".jpeg", ".png"))
            if path.is_dir()
            else [path]
        )
        if not found:
            raise DataError(f"the folder {path} holds no .jpg, .jpeg or .png file")
        yield from found


def ask_server(server: Inference, path: Path) -> dict[str, Any]:
    try:
        return server.predict(path.read_bytes())
    except PhotoError as error:
        return {"error": str(error)}


def main(args: Namespace) -> int:
    paths, server = list(photos(args.photos)), Inference(args.url)
    answers = ask(args.archive, paths) if args.archive else (ask_server(server, path) for path in paths)
    code = entrypoint.OK
    for path, answer in zip(paths, answers, strict=True):
        print(json.dumps({"photo": str(path), **answer}), flush=True)
        code = entrypoint.ERROR if "error" in answer else code
    return code


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO-OR-FOLDER")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="TorchServe's inference address")
    parser.add_argument("--archive", type=Path, help="a model archive (.mar), instead of a server")
    entrypoint.run(main, parser.parse_args())
