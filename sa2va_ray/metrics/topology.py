"""Whether two masks hang together in the same way."""

import cv2
import numpy as np

from sa2va_ray.metrics.overlap import check_shapes


def betti_errors(prediction: np.ndarray, truth: np.ndarray) -> dict[str, int]:
    """By how much the Betti numbers of the whole masks differ: `betti0_error` of the pieces (8-connected), and
    `betti1_error` of the loops (4-connected background that the mask encloses; two diagonal neighbours close a loop).

    Numbers only: a piece that is missing in one place and one too many in another cancel out. An empty mask has
    neither pieces nor loops. (Hu et al., arXiv 1906.05404, average this over patches; here the patch is the image.)

    Args:
        prediction, truth: (H, W) bool.

    Raises:
        ValueError: masks of different shapes.
    """
    check_shapes(prediction, truth)
    (pieces, loops), (true_pieces, true_loops) = _betti_numbers(prediction), _betti_numbers(truth)
    return {"betti0_error": abs(pieces - true_pieces), "betti1_error": abs(loops - true_loops)}


def _betti_numbers(mask: np.ndarray) -> tuple[int, int]:
    padded = np.pad(mask, 1).astype(np.uint8)  # all background that reaches the border is one component
    num_labels, _ = cv2.connectedComponents(padded, connectivity=8)
    num_background_labels, _ = cv2.connectedComponents(1 - padded, connectivity=4)
    return num_labels - 1, num_background_labels - 2  # label 0 is the rest; the background outside is no loop
