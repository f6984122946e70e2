"""``python -m trainer.data.synthetic``: draw a dataset from the command line."""

import argparse
from pathlib import Path

from trainer.data.synthetic import draw_dataset

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw bins in the format of the Amazon Bin Image Dataset.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(draw_dataset(args.out, args.photos, args.seed))
