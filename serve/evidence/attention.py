"""Where in a photo the model looked: the class activation map of a count as a transparent picture to lay over it.

The map says how much each place adds to the count's logit (B. Zhou et al., "Learning deep features for discriminative
localization", 2016, https://arxiv.org/abs/1512.04150). Since only differences of logits change an answer, what a place
adds to all counts alike is subtracted. What is left above zero is drawn, the strongest place in full colour.
"""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE_PX = 224
"""The picture is at most that large; whoever shows it stretches it over the photo."""
LEVELS = 32
"""Few levels compress well: a picture has 2 to 6 kB."""
MAX_OPACITY = 176
"""Of 255: the photo stays visible everywhere."""
_PREFIX = "data:image/png;base64,"


def heat_map(maps: NDArray[np.float32], number: int) -> NDArray[np.float64]:
    """What each place says for one count, ``(s, s)``, 0-1. ``maps``: of all counts, ``(C, s, s)``."""
    exact = np.nan_to_num(maps.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    heat = np.maximum(exact[number] - exact.mean(axis=0), 0.0)
    highest = heat.max()
    return np.asarray(heat / highest if highest > 0 else heat)


def heat_picture(heat: NDArray[np.float64], size_px: int) -> bytes:
    """The PNG of a heat map ``(s, s)``, 0-1, for a square of ``size_px``: red to yellow, and clear where heat is 0."""
    side = min(size_px, SIDE_PX)
    smooth = Image.fromarray(heat.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    levels = np.rint(np.asarray(smooth).clip(0, 1) * (LEVELS - 1)).astype(np.uint8)
    picture = Image.frombytes("P", (side, side), levels.tobytes())
    picture.putpalette([channel for level in range(LEVELS) for channel in (255, 255 * level // (LEVELS - 1), 0)])
    out = io.BytesIO()
    opacities = bytes(MAX_OPACITY * level // (LEVELS - 1) for level in range(LEVELS))
    picture.save(out, "PNG", transparency=opacities, optimize=True)
    return out.getvalue()


def attention(maps: NDArray[np.float32] | None, number: int, name: str, size_px: int) -> dict[str, str] | None:
    """The ``attention`` of an answer: the count whose map is drawn, and the picture; None for a network without maps.

    ``number``: of the class ``name``, whose map is drawn; ``size_px``: of the square that photos are squashed to.
    """
    if maps is None:
        return None
    picture = base64.b64encode(heat_picture(heat_map(maps, number), size_px)).decode()
    return {"count": name, "image": _PREFIX + picture}
