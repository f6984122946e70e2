"""Fetch photos and records from the public bucket, an S3 store or a folder; or upload a folder.

    python scripts/fetch_data.py --file-list file_list.json --out DATA [--counts 1-5] [--limit N]
    python scripts/fetch_data.py --out DATA --upload s3://bucket/prefix

Run it again after an interruption: only what is missing is fetched.
"""

import os
from argparse import Namespace
from pathlib import Path

import _cli
from serve.files import write_text
from serve.settings import read
from serve.settings.common import StoreSettings
from trainer import entrypoint
from trainer.data import abid, counts, s3, transfer


def main(args: Namespace) -> int:
    if args.upload:
        sent, present = transfer.upload(args.out, args.upload, args.endpoint_url, args.workers)
        text = f"sent {sent} files to {args.upload}; {present} were there already"
        _cli.emit(args, {"sent": sent, "present": present}, text)
        return entrypoint.OK
    store = s3.open_store(args.source, args.endpoint_url, args.workers)
    if args.file_list:
        selected_counts = counts.parse(args.counts) if args.counts else None
        ids_by_count = abid.select_ids(abid.read_file_list(args.file_list), selected_counts, args.limit)
        ids = [photo_id for count_ids in ids_by_count.values() for photo_id in count_ids]
        args.out.mkdir(parents=True, exist_ok=True)
        write_text(args.out / abid.FILE_LIST, abid.file_list_json(ids_by_count))
    else:
        ids = transfer.shuffled_ids(store)[: args.limit] if args.limit else transfer.list_ids(store)
    report = transfer.fetch(store, ids, len(ids), args.out, args.workers)
    text = (
        f"fetched {report.fetched} files ({report.size_bytes / 1e6:.1f} MB), {report.present} were there already; "
        f"{len(report.missing)} missing, {len(report.damaged)} damaged, listed in {args.out / transfer.REPORT}"
    )
    _cli.emit(args, vars(report), text)
    return entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("--file-list", type=Path, help="list of the photos to fetch; without, all of the source")
    parser.add_argument("--out", type=Path, required=True, help="folder to fill, or to upload")
    parser.add_argument("--source", default=f"s3://{s3.PUBLIC_BUCKET}", help="s3://bucket/prefix, or a folder")
    endpoint = read(StoreSettings, os.environ).s3_endpoint
    parser.add_argument("--endpoint-url", default=endpoint, help="another S3 server; also BINWATCH_S3_ENDPOINT")
    parser.add_argument("--workers", type=int, default=32, help="parallel requests")
    parser.add_argument("--counts", help="only these counts of the file list, such as 1-5")
    parser.add_argument(
        "--limit",
        type=int,
        help="a subset of this many photos, with the shares of counts of the file list, or without one drawn at random",
    )
    parser.add_argument("--upload", metavar="S3-URI", help="upload the folder --out to this address instead")
    entrypoint.run(main, parser.parse_args())
