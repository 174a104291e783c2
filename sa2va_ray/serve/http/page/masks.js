// From probabilities to masks, as sa2va_ray/predict/cleanup.py does it, and to COCO's run lengths.
// A mask is a Uint8Array of 0 and 1, height * width of them, row by row.

const STEPS = 65535; // a 16-bit PNG holds round(p * 65535)

/** Probabilities (Uint16Array) -> mask: above the threshold, then cleaned. */
export function toMask(values, width, height, threshold, cleanup) {
  const limit = threshold * STEPS;
  const mask = new Uint8Array(values.length);
  for (let i = 0; i < values.length; i++) mask[i] = values[i] > limit ? 1 : 0;
  return clean(mask, width, height, cleanup);
}

/** Masks of one image -> where any of them is set. */
export function union(masks, size) {
  const all = new Uint8Array(size);
  for (const mask of masks) for (let i = 0; i < size; i++) all[i] |= mask[i];
  return all;
}

export function countPixels(mask) {
  let count = 0;
  for (const value of mask) count += value;
  return count;
}

/** Closes, opens, removes small components and fills small holes, in this order. */
export function clean(mask, width, height, cleanup) {
  let cleaned = mask;
  if (cleanup.close_px) cleaned = closed(cleaned, width, height, cleanup.close_px);
  if (cleanup.open_px) {
    cleaned = dilated(eroded(cleaned, width, height, cleanup.open_px), width, height, cleanup.open_px);
  }
  if (cleanup.min_component_px) {
    const isSmall = ({ pixels }) => pixels.length < cleanup.min_component_px;
    cleaned = withoutComponents(cleaned, width, height, true, isSmall);
  }
  if (cleanup.max_hole_px) {
    const isHole = ({ pixels, atBorder }) => pixels.length <= cleanup.max_hole_px && !atBorder;
    cleaned = inverted(withoutComponents(inverted(cleaned), width, height, false, isHole));
  }
  return cleaned;
}

/** With background beyond the border, so that a vessel is not joined to the border that it runs beside. */
function closed(mask, width, height, radius) {
  const wide = width + 2 * radius, tall = height + 2 * radius;
  const around = new Uint8Array(wide * tall);
  for (let y = 0; y < height; y++) around.set(mask.subarray(y * width, (y + 1) * width), (y + radius) * wide + radius);
  const done = eroded(dilated(around, wide, tall, radius), wide, tall, radius);
  const inner = new Uint8Array(mask.length);
  for (let y = 0; y < height; y++) {
    const start = (y + radius) * wide + radius;
    inner.set(done.subarray(start, start + width), y * width);
  }
  return inner;
}

function eroded(mask, width, height, radius) {
  return inverted(dilated(inverted(mask), width, height, radius));
}

/** By a square of 2 * radius + 1; what is beyond the border does not count. */
function dilated(mask, width, height, radius) {
  const alongRows = spread(mask, width, height, width, 1, radius);
  return spread(alongRows, height, width, 1, width, radius);
}

/** Along lines of `length` pixels `step` apart; the lines start `pitch` apart. */
function spread(mask, length, numLines, pitch, step, radius) {
  const out = new Uint8Array(mask.length);
  for (let line = 0; line < numLines; line++) {
    const start = line * pitch;
    let inWindow = 0;
    for (let i = -radius; i < length; i++) {
      if (i + radius < length) inWindow += mask[start + (i + radius) * step];
      if (i - radius > 0) inWindow -= mask[start + (i - radius - 1) * step];
      if (i >= 0 && inWindow) out[start + i * step] = 1;
    }
  }
  return out;
}

function inverted(mask) {
  return mask.map((value) => 1 - value);
}

function withoutComponents(mask, width, height, diagonally, isUnwanted) {
  const kept = mask.slice(), left = mask.slice();
  for (let i = 0; i < mask.length; i++) {
    if (!left[i]) continue;
    const component = takeComponent(left, width, height, diagonally, i);
    if (isUnwanted(component)) for (const pixel of component.pixels) kept[pixel] = 0;
  }
  return kept;
}

/** The component that holds pixel `first`; it is cleared in `left`. */
function takeComponent(left, width, height, diagonally, first) {
  const pixels = [first];
  let atBorder = false;
  left[first] = 0;
  for (let next = 0; next < pixels.length; next++) {
    const x = pixels[next] % width, y = (pixels[next] - x) / width;
    atBorder ||= x === 0 || y === 0 || x === width - 1 || y === height - 1;
    for (let dy = -1; dy <= 1; dy++) {
      for (let dx = -1; dx <= 1; dx++) {
        const inside = x + dx >= 0 && x + dx < width && y + dy >= 0 && y + dy < height;
        const neighbour = pixels[next] + dy * width + dx;
        if (!inside || !left[neighbour] || (dx && dy && !diagonally)) continue;
        left[neighbour] = 0;
        pixels.push(neighbour);
      }
    }
  }
  return { pixels, atBorder };
}

/** COCO's compressed run lengths: column by column, the first run is of zeros. */
export function toRle(mask, width, height) {
  const counts = [];
  let value = 0, run = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      if (mask[y * width + x] !== value) {
        counts.push(run);
        value = 1 - value;
        run = 0;
      }
      run++;
    }
  }
  counts.push(run);
  return { size: [height, width], counts: compressed(counts) };
}

/** Each count less the one two before it (from the fourth on), in groups of 5 bits, lowest first, as characters from "0". */
function compressed(counts) {
  const characters = [];
  counts.forEach((count, i) => {
    let rest = i > 2 ? count - counts[i - 2] : count;
    let more = true;
    while (more) {
      const group = rest & 31;
      rest >>= 5;
      more = rest !== (group & 16 ? -1 : 0);
      characters.push(String.fromCharCode(48 + group + (more ? 32 : 0)));
    }
  });
  return characters.join("");
}

/** COCO's [x, y, width, height] around the mask; zeros where it is empty. */
export function boundingBox(mask, width) {
  let left = Infinity, right = -1, top = -1, bottom = -1;
  mask.forEach((value, i) => {
    if (!value) return;
    const x = i % width;
    bottom = (i - x) / width;
    if (top < 0) top = bottom;
    left = Math.min(left, x);
    right = Math.max(right, x);
  });
  return right < 0 ? [0, 0, 0, 0] : [left, top, right - left + 1, bottom - top + 1];
}
