"""Drawing photos of bins in the format of the dataset, for machines without the real photos.

    python -m trainer.data.synthetic OUT --photos 1000 --seed 0

writes ``OUT/bin-images/<id>.jpg``, ``OUT/metadata/<id>.json`` and ``OUT/file_list.json``. A photo shows a yellow fabric
bin with one to five objects, elastic bands and a label, and light, focus and noise vary. As in the real dataset, about
a third of the photos show the bin of the previous photo after an object was taken out or put in, so that splitting by
bin matters; and records list products with sizes and weights, which fit what is drawn (``catalogue.py``).
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tqdm import tqdm

from trainer.data.abid import FILE_LIST, file_list_json
from trainer.data.synthetic.painting import draw_bin
from trainer.data.synthetic.stocking import Bin, stock_bins


def draw_dataset(out: Path, photos: int = 1000, seed: int = 0, counts: tuple[int, ...] = (1, 2, 3, 4, 5)) -> Path:
    """Draw ``photos`` bins into ``out``, the same number of each count, and return ``out``.

    The same seed draws the same bytes.
    """
    for folder in ("bin-images", "metadata"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    bins = list(stock_bins(photos, seed, counts))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # PIL and numpy draw outside the GIL
        results = pool.map(partial(_write, out), bins)
        for _ in tqdm(results, total=photos, desc="drawing bins", unit="photo"):
            pass
    ids_by_count: dict[int, list[str]] = {count: [] for count in counts}
    for drawn_bin in bins:
        ids_by_count[len(drawn_bin.items)].append(drawn_bin.id)
    (out / FILE_LIST).write_text(file_list_json(ids_by_count))
    return out


def version() -> str:
    """The version of the code that draws: the first 8 hexadecimal digits of the SHA-256 of its files."""
    code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.sha256(code).hexdigest()[:8]


def _write(out: Path, drawn_bin: Bin) -> None:
    draw_bin(drawn_bin).save(out / "bin-images" / f"{drawn_bin.id}.jpg", quality=85)
    (out / "metadata" / f"{drawn_bin.id}.json").write_text(json.dumps(drawn_bin.record(), indent=4, sort_keys=True))
