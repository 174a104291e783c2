// The image with its mask: overlay, side by side or the mask alone, fitted or zoomed.

const $ = (id) => document.getElementById(id);
const FIT_HEIGHT = 0.72; // of the window
const GAP = 8; // px between the panes

let imageUrl = null;
let size = null; // {width, height} of what is shown

/** Shows an image file; -> {width, height}, or null where the browser cannot draw it. */
export async function showImage(file) {
  clear();
  if (imageUrl) URL.revokeObjectURL(imageUrl);
  imageUrl = URL.createObjectURL(file);
  const image = $("image");
  image.src = imageUrl;
  const drawn = await image.decode().then(() => true, () => false);
  image.hidden = !drawn;
  size = drawn ? { width: image.naturalWidth, height: image.naturalHeight } : null;
  $("layers").hidden = !drawn;
  $("empty").hidden = drawn;
  layOut();
  return size;
}

/** Mask over the image, or over grey where the image cannot be drawn at the mask's size; -> whether it is drawn. */
export function showMask(mask, width, height) {
  const image = $("image");
  const fits = !image.hidden && image.naturalWidth === width && image.naturalHeight === height;
  image.hidden = !fits;
  size = { width, height };
  $("layers").hidden = false;
  $("empty").hidden = true;
  draw($("overlay"), mask, width, height, [...maskColour(), 255], [0, 0, 0, 0]);
  draw($("mask"), mask, width, height, [255, 255, 255, 255], [0, 0, 0, 255]);
  layOut();
  return fits;
}

/** No mask. */
export function clear() {
  for (const canvas of [$("overlay"), $("mask")]) canvas.width = canvas.height = 0;
}

export function setOpacity(opacity) {
  $("overlay").style.opacity = opacity;
}

/** [r, g, b] of --mask, which the server's palette defines as #rrggbb. */
function maskColour() {
  const hex = getComputedStyle(document.documentElement).getPropertyValue("--mask").trim();
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

function draw(canvas, mask, width, height, on, off) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  const words = new Uint32Array(pixels.data.buffer);
  const [onWord, offWord] = new Uint32Array(new Uint8Array([...on, ...off]).buffer);
  for (let i = 0; i < mask.length; i++) words[i] = mask[i] ? onWord : offWord;
  context.putImageData(pixels, 0, 0);
}

function layOut() {
  const view = document.querySelector("[name=view]:checked").value;
  $("panes").className = `panes ${view}`;
  $("overlay").hidden = view === "side";
  $("opacity").disabled = view !== "overlay";
  if (!size) return;
  const zoom = $("zoom").value;
  // Not the pane's own width, which a scroll bar that comes with the zoom would change.
  const paneWidth = view === "side" ? ($("panes").clientWidth - GAP) / 2 : $("panes").clientWidth;
  const fit = Math.min(paneWidth / size.width, Math.floor(FIT_HEIGHT * innerHeight) / size.height);
  const scale = zoom === "fit" ? fit : Number(zoom);
  for (const element of [$("image"), $("overlay"), $("mask")]) {
    element.style.width = `${size.width * scale}px`;
    element.style.height = `${size.height * scale}px`;
    // Scaled down, nearest pixels would lose thin vessels.
    element.style.imageRendering = scale * devicePixelRatio >= 1 ? "pixelated" : "auto";
  }
  for (const pane of [$("pane-image"), $("pane-mask")]) {
    pane.classList.toggle("scrolls", scale > fit);
    pane.tabIndex = scale > fit ? 0 : -1; // the arrow keys scroll what has the focus
  }
}

function scrollTogether(one, other) {
  one.addEventListener("scroll", () => {
    other.scrollLeft = one.scrollLeft;
    other.scrollTop = one.scrollTop;
  });
}

for (const radio of document.querySelectorAll("[name=view]")) radio.addEventListener("change", layOut);
$("zoom").addEventListener("change", layOut);
new ResizeObserver(layOut).observe($("panes"));
scrollTogether($("pane-image"), $("pane-mask"));
scrollTogether($("pane-mask"), $("pane-image"));
