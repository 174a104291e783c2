// PNG without a canvas: a browser's canvas keeps 8 of 16 bits, and some browsers add noise to what is read back from it.

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

/** 16-bit grey PNG -> {width, height, values: Uint16Array of height * width, row by row}. */
export async function decodePng16(bytes) {
  if (SIGNATURE.some((byte, i) => bytes[i] !== byte)) throw new Error("no PNG");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const width = view.getUint32(16), height = view.getUint32(20);
  if (bytes[24] !== 16 || bytes[25] !== 0 || bytes[28] !== 0) throw new Error("no plain 16-bit grey PNG");
  const rows = await through(new Blob(imageData(bytes, view)), new DecompressionStream("deflate"));
  if (rows.length !== height * (1 + 2 * width)) throw new Error("the PNG is cut off");
  return { width, height, values: unfilter(rows, width, height) };
}

/** Mask (Uint8Array of 0 and 1) -> 8-bit grey PNG of 0 and 255, with `texts` (Latin-1) as its text chunks. */
export async function encodePng(mask, width, height, texts) {
  const rows = new Uint8Array(height * (width + 1)); // a filter byte of 0 before each row
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) rows[y * (width + 1) + 1 + x] = mask[y * width + x] * 255;
  }
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header[8] = 8; // bits, of colour type 0: grey
  const parts = [new Uint8Array(SIGNATURE), chunk("IHDR", header)];
  for (const [key, text] of Object.entries(texts)) parts.push(chunk("tEXt", latin1(`${key}\0${text}`)));
  parts.push(chunk("IDAT", await through(new Blob([rows]), new CompressionStream("deflate"))));
  parts.push(chunk("IEND", new Uint8Array(0)));
  return new Blob(parts, { type: "image/png" });
}

function imageData(bytes, view) {
  const parts = [];
  for (let at = SIGNATURE.length; at < bytes.length; at += 12 + view.getUint32(at)) {
    const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (type === "IDAT") parts.push(bytes.subarray(at + 8, at + 8 + view.getUint32(at)));
  }
  return parts;
}

/** Rows with their filter byte -> values; the five filters of PNG, whose left neighbour is 2 bytes away. */
function unfilter(rows, width, height) {
  const stride = 2 * width;
  const values = new Uint16Array(width * height);
  let above = new Uint8Array(stride), row = new Uint8Array(stride);
  for (let y = 0; y < height; y++) {
    const start = y * (stride + 1);
    const filter = rows[start];
    for (let i = 0; i < stride; i++) {
      const left = i < 2 ? 0 : row[i - 2], corner = i < 2 ? 0 : above[i - 2];
      row[i] = rows[start + 1 + i] + predicted(filter, left, above[i], corner);
    }
    for (let x = 0; x < width; x++) values[y * width + x] = (row[2 * x] << 8) | row[2 * x + 1];
    [above, row] = [row, above];
  }
  return values;
}

function predicted(filter, left, up, corner) {
  if (filter === 0) return 0;
  if (filter === 1) return left;
  if (filter === 2) return up;
  if (filter === 3) return (left + up) >> 1;
  const toLeft = Math.abs(up - corner), toUp = Math.abs(left - corner), toCorner = Math.abs(left + up - 2 * corner);
  if (toLeft <= toUp && toLeft <= toCorner) return left;
  return toUp <= toCorner ? up : corner;
}

async function through(blob, transform) {
  return new Uint8Array(await new Response(blob.stream().pipeThrough(transform)).arrayBuffer());
}

function latin1(text) {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

function chunk(type, data) {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(latin1(type), 4);
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crc32(bytes.subarray(4, 8 + data.length)));
  return bytes;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
