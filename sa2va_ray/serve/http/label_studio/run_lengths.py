"""Run lengths of brush masks, as label-studio-converter reads them in `brush.py`: a format of
https://github.com/thi-ng/umbrella (rle-pack)."""

import numpy as np

_HEADER_BITS = 32 + 5 + 4 * 4  # number of values, bits of a value, bits of the four kinds of run length
_VALUE_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)
_CHANNELS = 4  # RGBA


def mask_to_brush_rle(mask: np.ndarray) -> list[int]:
    """(H, W) bool -> Label Studio's RLE, a list of bytes: the mask as RGBA, 255 or 0 in each of the four channels.

    Bits, most significant first: number of values (32); bits of a value less 1 (5); bits of the lengths of the kinds
    of runs, each less 1 (4 each); then runs: 1, the kind (2), the length less 1 (as many as the kind has), the value.
    """
    values, lengths = _runs(mask)
    kinds = np.searchsorted([2**bits for bits in _LENGTH_BITS[:-1]], lengths)
    num_bits = np.array(_LENGTH_BITS)[kinds]
    words = (((1 << 2 | kinds) << num_bits | (lengths - 1)) << _VALUE_BITS) | values
    header = mask.size * _CHANNELS
    for value, bits in ((_VALUE_BITS, 5), *((length, 4) for length in _LENGTH_BITS)):
        header = header << bits | (value - 1)
    words = np.concatenate([[header], words])
    return np.packbits(_to_bits(words, np.concatenate([[_HEADER_BITS], 1 + 2 + num_bits + _VALUE_BITS]))).tolist()


def _runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R,) values and (R,) lengths of the runs of the mask as RGBA, none longer than a run may be."""
    pixels = mask.reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(pixels[1:] != pixels[:-1]) + 1])
    lengths = np.diff(starts, append=len(pixels)) * _CHANNELS
    values = pixels[starts].astype(np.int64) * 255
    longest = 2 ** _LENGTH_BITS[-1]
    pieces = -(-lengths // longest)
    split = np.full(pieces.sum(), longest, np.int64)
    split[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * longest
    return np.repeat(values, pieces), split


def _to_bits(words: np.ndarray, num_bits: np.ndarray) -> np.ndarray:
    """The lowest bits of each word, as many as `num_bits` says, one after the other."""
    ends = np.cumsum(num_bits)
    shifts = np.repeat(ends, num_bits) - np.arange(ends[-1]) - 1
    return (np.repeat(words, num_bits) >> shifts & 1).astype(np.uint8)
