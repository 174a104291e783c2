"""Run lengths of Label Studio's brush masks, both ways, as its SDK has them in `converter/brush.py`: a format of
https://github.com/thi-ng/umbrella (rle-pack).

Bits, most significant first: number of values (32); bits of a value less 1 (5); bits of the lengths of the four kinds
of blocks, each less 1 (4 each); then blocks: whether it is a run (1), the kind (2), the length less 1 (as many as the
kind has), and one value if it is a run, else as many values as its length. The values are those of an RGBA image.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from sa2va_ray.images.checks import ImageError

_HEADER_BITS = 32 + 5 + 4 * 4  # number of values, bits of a value, bits of the four kinds of length
_VALUE_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)
_CHANNELS = 4  # RGBA
_HALF_COVERED = 128  # of the 255 of alpha: the brush's edges are smooth
_WORD_BITS = 40  # a whole number of bytes, with room for a block up to its first value, wherever in a byte it begins
_WINDOW_BITS = 2**19


def mask_to_brush_rle(mask: np.ndarray) -> list[int]:
    """(H, W) bool -> Label Studio's RLE, a list of bytes: the mask as RGBA, 255 or 0 in each of the four channels."""
    values, lengths = _runs(mask)
    kinds = np.searchsorted([2**bits for bits in _LENGTH_BITS[:-1]], lengths)
    num_bits = np.array(_LENGTH_BITS)[kinds]
    words = (((1 << 2 | kinds) << num_bits | (lengths - 1)) << _VALUE_BITS) | values
    header = mask.size * _CHANNELS
    for value, bits in ((_VALUE_BITS, 5), *((length, 4) for length in _LENGTH_BITS)):
        header = header << bits | (value - 1)
    words = np.concatenate([[header], words])
    return np.packbits(_to_bits(words, np.concatenate([[_HEADER_BITS], 1 + 2 + num_bits + _VALUE_BITS]))).tolist()


def brush_rle_to_mask(rle: Sequence[int], height: int, width: int) -> np.ndarray:
    """Label Studio's RLE -> (height, width) bool: where the brush covers half of the pixel or more, by alpha.

    Raises:
        ImageError: no bytes, cut off, or of another number of pixels.
    """
    try:
        data = bytes(rle)
    except (TypeError, ValueError):
        raise ImageError("rle_broken", "The run lengths of a brush are no list of bytes, 0 to 255.") from None
    header = int.from_bytes(data[:8].ljust(8, b"\0")) >> (64 - _HEADER_BITS)
    num_values = header >> (_HEADER_BITS - 32)
    if num_values != height * width * _CHANNELS:
        raise ImageError(
            "brush_size",
            f"The run lengths of a brush are for {num_values / _CHANNELS:g} pixels; the image that it states has "
            f"{width} x {height}. It was drawn for another image.",
        )
    if (header >> 16 & 31) + 1 != _VALUE_BITS:
        raise ImageError("rle_broken", f"The values of a brush have {(header >> 16 & 31) + 1} bits, not {_VALUE_BITS}.")
    sizes = np.array([(header >> shift & 15) + 1 for shift in (12, 8, 4, 0)])
    alpha = _unpack(np.frombuffer(data, np.uint8), sizes, num_values).reshape(height, width, _CHANNELS)[..., -1]
    return alpha >= _HALF_COVERED


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


def _unpack(data: np.ndarray, sizes: np.ndarray, num_values: int) -> np.ndarray:
    """(num_values,) uint8: the values of the blocks behind the header."""
    values = np.zeros(num_values, np.uint8)
    filled = 0
    for is_run, lengths, places in _blocks(data, sizes):
        ends = np.minimum(np.cumsum(lengths), num_values - filled)
        lengths = np.diff(ends, prepend=0)
        firsts = np.where(is_run, _bytes_at(data, places), 0).astype(np.uint8)
        values[filled : filled + ends[-1]] = np.repeat(firsts, lengths)
        own = ~is_run & (lengths > 0)
        within = _counting(lengths[own])
        targets = np.repeat((ends - lengths)[own], lengths[own]) + within + filled
        values[targets] = _bytes_at(data, np.repeat(places[own], lengths[own]) + within * _VALUE_BITS)
        last = np.flatnonzero(lengths)[-1]
        end = places[last] + _VALUE_BITS * (1 if is_run[last] else lengths[last])
        filled += ends[-1]
        if end > 8 * len(data):
            break
        if filled == num_values:
            return values
    raise ImageError("rle_broken", "The run lengths of a brush are cut off.")


def _blocks(data: np.ndarray, sizes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Blocks, window by window of the bits: whether each is a run, its length, and the bit where its values begin.

    Where a block begins is known from the one before it alone. So what a block would be is found for every bit of a
    window at once, and then the blocks that there are are picked.
    """
    place = _HEADER_BITS
    while place < 8 * len(data):
        words = _words(data, place, place + _WINDOW_BITS)
        kinds = sizes[(words >> _WORD_BITS - 3 & 3).astype(int)]
        all_lengths = (words >> _WORD_BITS - 3 - kinds & (1 << kinds) - 1) + 1
        are_runs = words >> _WORD_BITS - 1 == 1
        steps = (3 + kinds + _VALUE_BITS * np.where(are_runs, 1, all_lengths)).tolist()
        picked, at = [], 0
        while at < len(steps):
            picked.append(at)
            at += steps[at]
        yield are_runs[picked], all_lengths[picked], place + np.array(picked) + 3 + kinds[picked]
        place += at


def _words(data: np.ndarray, start: int, stop: int) -> np.ndarray:
    """The `_WORD_BITS` bits that begin at each bit from `start` to before `stop`, as numbers; zeros behind the end."""
    first, last = start // 8, min(len(data), -(-stop // 8))
    padded = np.zeros(last - first + _WORD_BITS // 8, np.int64)
    known = data[first : first + len(padded)]
    padded[: len(known)] = known
    wide = np.zeros(last - first, np.int64)  # of 48 bits
    for number in range(_WORD_BITS // 8 + 1):
        wide = wide << 8 | padded[number : number + last - first]
    words = wide[:, None] >> np.arange(8, 0, -1) & (1 << _WORD_BITS) - 1
    return words.reshape(-1)[start - 8 * first :][: stop - start]


def _bytes_at(data: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The byte that begins at each bit; zeros behind the end."""
    padded = np.concatenate([data, np.zeros(2, np.uint8)]).astype(np.int64)
    index = np.minimum(places // 8, len(data))
    return ((padded[index] << 8 | padded[index + 1]) >> 8 - places % 8 & 255).astype(np.uint8)


def _counting(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ... for each length, one after the other."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
