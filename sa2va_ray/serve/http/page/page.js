// The page: from an image to a mask at a threshold, and to files.

import { Problem, apiKey, fetchModels, segment } from "./api.js";
import { boundingBox, countPixels, toMask, toRle, union } from "./masks.js";
import { decodePng16, encodePng } from "./png.js";
import { clear, setOpacity, showImage, showMask } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const percent = (fraction, digits) => `${(100 * fraction).toFixed(digits)} %`;
const whole = (number) => number.toLocaleString("en");

let models = [];
let given = null; // the newest image, and
let file = null; // that image once it is drawn: only then it can be sent
let waiting = null; // {abort: AbortController, stop} of the request under way
let result = null; // {reply, answer, maps, width, height, threshold, masks, roundTripMs}
let frame = 0;

// ---- models and key

async function loadModels() {
  models = await fetchModels();
  $("model").replaceChildren(...models.map(({ name }) => new Option(name, name)));
  $("model-field").hidden = models.length < 2;
  $("served").textContent = models.length === 1 ? `Model ${models[0].name}` : `${models.length} models`;
  takeDefaultPrompt();
}

const chosenModel = () => models.find(({ name }) => name === $("model").value);

function takeDefaultPrompt() {
  const isUntouched = ["", ...models.map((model) => model.default_prompt)].includes($("prompt").value.trim());
  if (isUntouched) $("prompt").value = chosenModel().default_prompt;
}

function askForKey() {
  $("key-field").hidden = false;
  $("key").value = apiKey.get();
  $("key").focus();
}

async function tryLoadModels() {
  try {
    await loadModels();
    return true;
  } catch (error) {
    $("served").textContent = error.status === 401 ? "Waiting for your access key." : "The models are not known yet.";
    showProblem(error);
    return false;
  }
}

// ---- the image

async function choose(chosen) {
  cancel();
  cancelAnimationFrame(frame); // a threshold of the old image's mask
  given = chosen;
  file = null;
  result = null;
  hideProblem();
  for (const id of ["toolbar", "controls", "facts"]) $(id).hidden = true;
  $("submit").disabled = true;
  say("");
  // In memory, what is drawn is what is sent. Of a file that was written anew since, Chromium sends nothing for ever.
  const kept = await chosen.arrayBuffer().then((bytes) => new Blob([bytes], { type: chosen.type }), () => null);
  const size = kept && (await showImage(kept));
  if (given !== chosen) return;
  if (!kept) return showProblem(unreadable());
  file = kept;
  const kib = Math.ceil(file.size / 1024);
  $("chosen").textContent = `${size ? `${size.width} × ${size.height} px, ` : ""}${whole(kib)} KiB`;
  $("chosen").hidden = false;
  $("empty").textContent = "The browser cannot draw this kind of file. The server may still read it.";
  say("Ready. Nothing is sent until you press Segment.");
  note("");
  $("submit").disabled = false;
  $("submit").focus({ preventScroll: true });
}

function unreadable() {
  return new Problem({
    title: "The file cannot be read",
    detail: "It is a folder, was moved or deleted, or is larger than this browser reads.",
    cure: "Choose an image file.",
  });
}

function firstFile(transfer) {
  return [...(transfer?.files ?? [])][0];
}

// ---- the request

async function submit() {
  hideProblem();
  if (!file || waiting) return;
  const request = (waiting = { abort: new AbortController(), stop: showWaiting() });
  const isCurrent = () => waiting === request; // neither cancelled nor for an image that was replaced since
  try {
    if (!models.length && !(await tryLoadModels())) return;
    if (!isCurrent()) return;
    const limit = chosenModel().limits.max_upload_bytes;
    if (file.size > limit) throw tooLarge(file.size, limit);
    const started = performance.now();
    const reply = await segment(file, $("prompt").value.trim(), chosenModel().name, request.abort.signal);
    const roundTripMs = performance.now() - started;
    const shown = await toResult(reply, roundTripMs);
    if (isCurrent()) showResult(shown);
  } catch (error) {
    if (isCurrent()) showProblem(error);
  } finally {
    if (isCurrent()) stopWaiting();
  }
}

function stopWaiting() {
  waiting.stop();
  waiting = null;
}

function cancel() {
  if (!waiting) return;
  waiting.abort.abort();
  stopWaiting();
  say("Cancelled.");
}

function tooLarge(bytes, limit) {
  return new Problem({
    title: "Request too large",
    detail: `The file has ${whole(bytes)} bytes, the limit is ${whole(limit)}.`,
    cure: "Choose a smaller image, or one that is better compressed.",
  });
}

function showWaiting() {
  const started = performance.now();
  const tick = () => ($("elapsed").textContent = `${((performance.now() - started) / 1000).toFixed(0)} s`);
  say("The model is working …");
  const elapsed = Object.assign(document.createElement("span"), { id: "elapsed", ariaHidden: "true" });
  $("status").append(" ", elapsed);
  const timer = setInterval(tick, 1000);
  document.body.classList.add("waiting");
  $("submit").disabled = true;
  $("cancel").hidden = false;
  return () => {
    clearInterval(timer);
    document.body.classList.remove("waiting");
    $("submit").disabled = false;
    $("cancel").hidden = true;
  };
}

async function toResult(reply, roundTripMs) {
  const answer = reply.answers[0];
  const maps = [];
  for (const mask of answer.masks) maps.push((await decodePng16(fromBase64(mask.probability))).values);
  return { reply, answer, maps, width: reply.width, height: reply.height, threshold: reply.threshold, roundTripMs };
}

function fromBase64(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}

// ---- the result

function showResult(shown) {
  result = shown;
  const count = result.maps.length;
  $("which").replaceChildren(
    new Option(`all ${count} masks`, "all"),
    ...result.maps.map((_, i) => new Option(`mask ${i + 1}`, i)),
  );
  $("which-field").hidden = count < 2;
  for (const id of ["toolbar", "controls", "facts"]) $(id).hidden = false;
  showFacts();
  const isDrawn = setThreshold(result.threshold);
  const notes = [];
  if (!count) notes.push("The model answered in words and gave no mask. Its answer is below.");
  if (!isDrawn) notes.push("The browser cannot draw this file as the model saw it, so the mask is shown on grey.");
  note(notes.join(" "));
  $("toolbar").scrollIntoView({ block: "nearest" });
  say(`Done: ${$("area").textContent} of the image is masked.`);
}

/** -> whether the image is drawn under the mask. */
function setThreshold(threshold) {
  result.threshold = threshold;
  $("threshold").value = threshold;
  $("threshold-number").value = threshold;
  return update();
}

function update() {
  const { maps, width, height, threshold, reply } = result;
  const which = $("which").value;
  const shown = which === "all" ? maps : [maps[which]];
  result.masks = shown.map((values) => toMask(values, width, height, threshold, reply.cleanup));
  result.union = union(result.masks, width * height);
  const count = countPixels(result.union);
  $("area").textContent = percent(count / (width * height), 2);
  $("area-pixels").textContent = `${whole(count)} of ${whole(width * height)} px`;
  $("threshold").ariaValueText = `${threshold}, masked area ${$("area").textContent}`;
  $("reset").disabled = threshold === reply.model.threshold;
  return showMask(result.union, width, height);
}

/** At most once for each frame that the browser draws. */
function moveThreshold(value) {
  if (!(value >= 0 && value <= 1)) return;
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(() => setThreshold(value));
}

function showFacts() {
  const { reply, answer, roundTripMs } = result;
  $("fact-model").textContent = reply.model.name;
  $("fact-sha").textContent = `${reply.model.sha256.slice(0, 12)}…`;
  $("fact-request").textContent = reply.request_id;
  $("fact-prompt").textContent = answer.prompt;
  $("fact-text").textContent = answer.text;
  $("fact-score").textContent = answer.score.toFixed(3);
  $("fact-threshold").textContent = reply.model.threshold;
  $("reset").textContent = `Reset to ${reply.model.threshold}`;
  $("fact-cleanup").textContent = inWords(reply.cleanup);
  const stages = Object.entries(reply.timing_ms).map(([stage, ms]) => [stage.replaceAll("_", " "), ms]);
  $("fact-timing").replaceChildren(
    ...[...stages, ["seen from this browser", roundTripMs]].map(([stage, ms]) => {
      const item = document.createElement("li");
      item.append(`${stage} `, Object.assign(document.createElement("b"), { textContent: inTime(ms) }));
      return item;
    }),
  );
}

function inTime(ms) {
  return ms < 10_000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

function inWords(cleanup) {
  const names = { close_px: "closing", open_px: "opening", min_component_px: "components under", max_hole_px: "holes up to" };
  const steps = Object.entries(cleanup).filter(([, px]) => px).map(([step, px]) => `${names[step]} ${px} px`);
  return steps.join(", ") || "none";
}

// ---- files

function save(blob, extension, requestId) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `mask-${requestId.slice(0, 8)}.${extension}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function savePng() {
  const { reply, width, height, threshold } = result;
  const texts = { "Model-SHA256": reply.model.sha256, Threshold: threshold, "Request-ID": reply.request_id };
  save(await encodePng(result.union, width, height, texts), "png", reply.request_id);
}

function saveRle() {
  const { reply, answer, width, height, threshold } = result;
  const annotations = result.masks.map((mask, i) => ({
    id: i + 1,
    iscrowd: 1,
    segmentation: toRle(mask, width, height),
    area: countPixels(mask),
    bbox: boundingBox(mask, width),
  }));
  const { name, sha256 } = reply.model;
  const document = {
    request_id: reply.request_id, model: { name, sha256 }, prompt: answer.prompt, threshold, cleanup: reply.cleanup,
    height, width, annotations,
  };
  save(new Blob([JSON.stringify(document, null, 1)], { type: "application/json" }), "json", reply.request_id);
}

// ---- what is said

function say(text) {
  $("status").textContent = text;
}

function note(text) {
  $("note").textContent = text;
  $("note").hidden = !text;
}

/** What a missing or unknown key means to a person who was given the address of this page and nothing else. */
function explainKey(problem) {
  const words = apiKey.get()
    ? {
        title: "This access key is not known here",
        detail: "It may be mistyped, cut off when it was copied, or no longer valid.",
        cure: "Copy it once more, all of it, into the field “Access key”. If that does not help, ask the person who gave it to you for a new one.",
      }
    : {
        title: "This page needs an access key",
        detail: "Images are taken only from people who have one. Nothing is broken.",
        cure: "Ask the person who gave you this address, or your IT department, for an access key (they may call it an API key). Put it into the field “Access key” and press Enter.",
      };
  return Object.assign(problem, words, { message: words.detail, requestId: null });
}

function showProblem(problem) {
  const needsKey = problem.status === 401;
  const error = needsKey ? explainKey(problem) : problem;
  const isProblem = error instanceof Problem;
  $("problem").classList.toggle("asks", needsKey);
  $("problem-title").textContent = isProblem ? error.title : "The reply could not be shown";
  $("problem-detail").textContent = error.message;
  const wait = error.retryAfterS ? ` The server asks to wait ${error.retryAfterS} s.` : "";
  $("problem-cure").textContent = (isProblem ? error.cure : "Reload the page; it may be older than the server.") + wait;
  $("problem-id").textContent = error.requestId ? `Request ${error.requestId}` : "";
  $("problem").hidden = false;
  $("problem").scrollIntoView({ block: "nearest" });
  say("");
  if (needsKey) askForKey();
}

function hideProblem() {
  $("problem").hidden = true;
}

async function copy(button) {
  const text = { sha: result.reply.model.sha256, request: result.reply.request_id }[button.dataset.copy];
  await navigator.clipboard.writeText(text);
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

// ---- wiring

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey) return;
  event.preventDefault();
  submit();
});
$("cancel").addEventListener("click", cancel);
$("file").addEventListener("change", () => {
  const [picked] = $("file").files;
  $("file").value = ""; // or the same file, picked again, would be no change
  if (picked) choose(picked);
});
$("model").addEventListener("change", takeDefaultPrompt);
$("open-key").addEventListener("click", askForKey);
$("key").addEventListener("change", () => {
  apiKey.set($("key").value.trim());
  hideProblem();
  tryLoadModels();
});
$("threshold").addEventListener("input", () => moveThreshold($("threshold").valueAsNumber));
$("threshold-number").addEventListener("change", () => moveThreshold($("threshold-number").valueAsNumber));
$("reset").addEventListener("click", () => setThreshold(result.reply.model.threshold));
$("which").addEventListener("change", update);
$("opacity").addEventListener("input", () => {
  setOpacity($("opacity").value);
  $("opacity-value").textContent = percent($("opacity").value, 0);
});
$("save-png").addEventListener("click", savePng);
$("save-rle").addEventListener("click", saveRle);
for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));

document.addEventListener("paste", (event) => {
  const pasted = firstFile(event.clipboardData);
  if (pasted) choose(pasted);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  const dropped = firstFile(event.dataTransfer);
  if (dropped) choose(dropped);
});

setOpacity($("opacity").value);
clear();
tryLoadModels();
