"""Fetch photos and records from the public bucket, an S3 store or a folder; or upload a folder.

    python scripts/fetch_data.py --file-list file_list.json --out DATA [--counts 1-5] [--limit N]
    python scripts/fetch_data.py --out DATA --upload s3://bucket/prefix

Run it again after an interruption: only what is missing is fetched.
"""

import os
from argparse import Namespace
from pathlib import Path

import _cli
from trainer import entrypoint
from trainer.data import abid, counts, s3, transfer


def main(args: Namespace) -> int:
    if args.upload:
        sent, there = transfer.upload(args.out, args.upload, args.endpoint_url, args.workers)
        _cli.emit(args, {"sent": sent, "present": there}, f"sent {sent} files to {args.upload}; {there} were there")
        return entrypoint.OK
    store = s3.open_store(args.source, args.endpoint_url, args.workers)
    wanted = counts.parse(args.counts) if args.counts else None
    if args.file_list:
        chosen = abid.choose(abid.read_file_list(args.file_list), wanted, args.limit)
        ids = [photo_id for each in chosen.values() for photo_id in each]
        args.out.mkdir(parents=True, exist_ok=True)
        transfer.write_whole(args.out / "file_list.json", abid.file_list_json(chosen))
    else:
        ids = transfer.list_ids(store)[: args.limit]
    report = transfer.fetch(store, ids, len(ids), args.out, args.workers)
    left_out = f"{len(report.missing)} missing, {len(report.damaged)} damaged, named in {args.out / transfer.REPORT}"
    megabytes = report.size_bytes / 1e6
    text = f"fetched {report.fetched} files ({megabytes:.1f} MB), {report.present} were there; {left_out}"
    _cli.emit(args, vars(report), text)
    return entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("--file-list", type=Path, help="which photos; all of the source without")
    parser.add_argument("--out", type=Path, required=True, help="the folder to fill, or to upload")
    parser.add_argument("--source", default=f"s3://{s3.PUBLIC_BUCKET}", help="s3://bucket/prefix or a folder")
    parser.add_argument("--endpoint-url", default=os.environ.get("BINWATCH_S3_ENDPOINT"), help="another S3 server")
    parser.add_argument("--workers", type=int, default=32, help="requests at a time")
    parser.add_argument("--counts", help="only these counts of the file list, such as 1-5")
    parser.add_argument("--limit", type=int, help="a stratified subset of so many photos")
    parser.add_argument("--upload", metavar="S3-URI", help="put the folder --out there instead")
    entrypoint.run(main, parser.parse_args())
