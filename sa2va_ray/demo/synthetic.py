"""Synthetic angiograms with vessel masks, in the layout of a source folder (`images/`, `annotations.json`).

A patient is a tree of vessels with its surroundings; the patient's frames show it slightly moved, with other contrast
and noise. Vessels are dark, 2 to 9 px wide at 256 px. Ribs, spots and faint wires keep a threshold from finding them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

PHRASE = "blood vessels"

_SCALE = 4  # vessels are drawn this much larger and averaged down, for smooth edges
_MIN_WIDTH_PX, _MAX_WIDTH_PX = 2.0, 9.0
_STEP = 0.015  # length of a vessel's segment; lengths and points are in image sides
_MIN_FOREGROUND, _MAX_FOREGROUND = 0.08, 0.14


@dataclass(frozen=True)
class _Vessel:
    points: np.ndarray  # (K, 2) x, y in image sides
    width_px: np.ndarray  # (K,) of an image of 256 px


def write_synthetic_dataset(
    folder: Path, seed: int = 0, num_patients: int = 8, frames_per_patient: int = 3, size: int = 256
) -> None:
    """Writes `num_patients * frames_per_patient` JPEGs of `size` x `size` px and their annotations to a new folder."""
    (folder / "images").mkdir(parents=True)
    items = []
    for patient in range(1, num_patients + 1):
        rng = np.random.default_rng([seed, patient])
        vessels = _grow_vessels(rng)
        backdrop = _draw_backdrop(rng, size)
        first = int(rng.integers(1, 60))
        for frame in range(first, first + frames_per_patient):
            image, mask = _draw_frame(rng, vessels, backdrop)
            name = f"images/synth{patient:02d}_frame_{frame:06d}.jpg"
            cv2.imwrite(str(folder / name), cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
            items.append(_to_item(name, mask_to_polygons(mask)))
    (folder / "annotations.json").write_text(json.dumps(items))


def mask_to_polygons(mask: np.ndarray) -> list[np.ndarray]:
    """(H, W) bool -> a (P, 2) polygon for each 8-connected component, which `cv2.fillPoly` turns back into the mask.

    A hole is joined to its outline by a bridge that goes there and back (a keyhole), so that even-odd filling leaves it
    open; the bridge itself may add a few pixels. Specks of fewer than 3 outline pixels are left out.
    """
    contours, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    polygons = []
    for index, contour in enumerate(contours):
        if tree[0, index, 3] < 0 and len(contour) >= 3:
            holes = [contours[hole] for hole in range(len(contours)) if tree[0, hole, 3] == index]
            polygons.append(_with_holes(contour[:, 0], [hole[:, 0] for hole in holes]))
    return polygons


def _with_holes(outline: np.ndarray, holes: list[np.ndarray]) -> np.ndarray:
    for hole in holes:
        distances = np.abs(outline[:, None] - hole[None]).sum(axis=2)
        start, entry = np.unravel_index(distances.argmin(), distances.shape)
        loop = np.concatenate([hole[entry:], hole[: entry + 1]])
        outline = np.concatenate([outline[: start + 1], loop, outline[start:]])
    return outline


def _to_item(name: str, polygons: list[np.ndarray]) -> dict[str, Any]:
    flat = [polygon.flatten().tolist() for polygon in polygons]
    return {
        "image": name,
        "mask": [{"segmentation": [points]} for points in flat],
        "conversations": [
            {"from": "human", "value": f"<image>Please segment the {PHRASE}."},
            {"from": "gpt", "value": f"<p>{PHRASE}</p><vp>{json.dumps(flat)}</vp>[SEG]"},
        ],
    }


def _grow_vessels(rng: np.random.Generator) -> list[_Vessel]:
    """Trunks from the border inwards, each with its branches, until they cover enough of the image."""
    target = rng.uniform(_MIN_FOREGROUND, _MAX_FOREGROUND)
    vessels: list[_Vessel] = []
    growing: list[_Vessel] = []
    while _coverage(vessels) < target:
        vessel = growing.pop(0) if growing else _grow_trunk(rng)
        vessels.append(vessel)
        growing += _grow_branches(rng, vessel)
    return vessels


def _grow_trunk(rng: np.random.Generator) -> _Vessel:
    angle = rng.uniform(0, 2 * np.pi)
    start = 0.5 + 0.7 * np.array([np.cos(angle), np.sin(angle)])  # outside, also after the frame's movement
    return _grow_vessel(rng, start, angle + np.pi + rng.normal(0, 0.3), rng.uniform(6, _MAX_WIDTH_PX), 1.2)


def _grow_branches(rng: np.random.Generator, parent: _Vessel) -> list[_Vessel]:
    """Branches of the part of a vessel that lies in the image, thinner than it; none of a vessel too thin to branch."""
    inside = np.flatnonzero(((parent.points > 0) & (parent.points < 1)).all(axis=1))[4:]
    branches = []
    for place in rng.choice(inside, min(len(inside), int(rng.integers(2, 5))), replace=False):
        width_px = parent.width_px[place] * rng.uniform(0.55, 0.85)
        if width_px >= _MIN_WIDTH_PX:
            forward = parent.points[place] - parent.points[place - 1]
            heading = np.arctan2(forward[1], forward[0]) + rng.choice([-1, 1]) * rng.uniform(0.35, 1.1)
            branches.append(_grow_vessel(rng, parent.points[place], heading, width_px, rng.uniform(0.2, 0.6)))
    return branches


def _grow_vessel(
    rng: np.random.Generator, start: np.ndarray, heading: float, width_px: float, length: float
) -> _Vessel:
    """A line that winds: the change of its heading is a slowly changing random number."""
    num_points = int(length / _STEP)
    turns = np.convolve(rng.normal(0, 0.045, num_points), np.ones(6), mode="same")
    headings = heading + np.cumsum(turns)
    steps = _STEP * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    taper = np.linspace(1, 0.6, num_points)
    return _Vessel(start + np.cumsum(steps, axis=0), np.maximum(width_px * taper, _MIN_WIDTH_PX))


def _coverage(vessels: list[_Vessel]) -> float:
    """Share of the image that the vessels cover."""
    return float((_draw_vessels(vessels, 64)[0] >= 0.5).mean())


def _draw_vessels(vessels: list[_Vessel], size: int) -> tuple[np.ndarray, np.ndarray]:
    """(size, size) share of each pixel that is vessel, and how much it is darkened: more by thick ones. Both 0..1."""
    canvas = np.zeros((size * _SCALE, size * _SCALE), np.float32)
    segments = [
        (width_px, start, end)
        for vessel in vessels
        for width_px, start, end in zip(vessel.width_px[1:], vessel.points[:-1], vessel.points[1:], strict=True)
    ]
    for width_px, start, end in sorted(segments, key=lambda segment: segment[0]):
        _draw_line(canvas, start, end, 0.45 + 0.55 * width_px / _MAX_WIDTH_PX, width_px / 256)
    covered = (canvas > 0).astype(np.float32)
    return _shrink(covered, size), _shrink(canvas, size)


def _draw_backdrop(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size) brightness, about 0.35 to 0.85: soft tissue, ribs, dark spots and faint wires, but no vessel."""
    large = size * _SCALE
    tissue = sum(weight * _clouds(rng, size, blur) for weight, blur in ((0.10, 0.25), (0.04, 0.06), (0.015, 0.015)))
    objects = np.zeros((large, large), np.float32)
    slope = rng.uniform(-0.5, 0.5)
    for y in np.arange(rng.uniform(-0.3, 0), 1.5, rng.uniform(0.28, 0.4)):  # ribs
        _draw_line(objects, np.array([0, y]), np.array([1, y + slope]), 0.09, 0.1)
    objects = _blur(objects, 0.008)
    for _ in range(rng.integers(3, 8)):  # spots
        center = rng.integers(0, large, 2).tolist()
        cv2.circle(objects, center, int(rng.uniform(0.008, 0.03) * large), rng.uniform(0.06, 0.2), thickness=-1)
    for _ in range(rng.integers(1, 4)):  # wires
        _draw_line(objects, rng.random(2), rng.random(2), rng.uniform(0.05, 0.12), 1 / 256)
    return 0.62 + tissue - _shrink(_blur(objects, 0.0025), size)


def _draw_frame(
    rng: np.random.Generator, vessels: list[_Vessel], backdrop: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A frame of a patient: (H, W) uint8 image and (H, W) bool mask."""
    size = len(backdrop)
    covered, depth = _draw_vessels(_move(rng, vessels), size)
    filling = 1 + 0.25 * _clouds(rng, size, 0.2).clip(-2, 2)  # dye does not reach all parts of the tree alike
    clean = backdrop * (1 - rng.uniform(0.3, 0.55) * filling * _blur(depth, 0.0025))
    noise = 0.03 * rng.normal(size=clean.shape) + 0.02 * _clouds(rng, size, 0.004)
    image = rng.uniform(0.9, 1.1) * clean + noise
    return (255 * image).clip(0, 255).astype(np.uint8), covered >= 0.5


def _move(rng: np.random.Generator, vessels: list[_Vessel]) -> list[_Vessel]:
    """The vessels a heartbeat later: turned and shifted a little, and bent by a wave."""
    angle, (phase_x, phase_y) = rng.normal(0, 0.03), rng.uniform(0, 2 * np.pi, 2)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    shift = rng.normal(0, 0.012, 2)
    moved = []
    for vessel in vessels:
        wave = 0.008 * np.sin(7 * vessel.points[:, ::-1] + [phase_x, phase_y])
        moved.append(_Vessel((vessel.points - 0.5) @ turn + 0.5 + shift + wave, vessel.width_px))
    return moved


def _clouds(rng: np.random.Generator, size: int, blur: float) -> np.ndarray:
    """(size, size) smooth random field with mean 0 and deviation 1; `blur` in image sides."""
    field = _blur(rng.normal(size=(size, size)), blur)
    return (field - field.mean()) / field.std()


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """`sigma` in image sides."""
    return cv2.GaussianBlur(image, (0, 0), sigma * len(image))


def _draw_line(canvas: np.ndarray, start: np.ndarray, end: np.ndarray, color: float, thickness: float) -> None:
    """Points x, y and thickness in image sides."""
    first, second = np.rint(np.stack([start, end]) * len(canvas)).astype(int).tolist()
    cv2.line(canvas, first, second, color, max(1, round(thickness * len(canvas))))


def _shrink(canvas: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
