// The server's API, as the page needs it.

const KEY = "sa2va-api-key";

/** What went wrong, in the fields of a problem document (RFC 9457). */
export class Problem extends Error {
  constructor({ status, title, detail, cure, request_id }, retryAfterS = null) {
    super(detail);
    Object.assign(this, { status, title, detail, cure, requestId: request_id, retryAfterS });
  }
}

export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY)),
};

/** -> list of the served models. */
export async function fetchModels() {
  return (await ask("v1/models", {})).models;
}

/** -> the reply of POST /v1/segment, with probabilities in place of masks. */
export async function segment(image, prompt, model, signal) {
  const form = new FormData();
  form.append("file", image, "image"); // its own name may be a patient's
  if (prompt) form.append("prompt", prompt);
  if (model) form.append("model", model);
  form.append("output", "probability");
  return ask("v1/segment", { method: "POST", body: form, signal });
}

async function ask(path, options) {
  const key = apiKey.get();
  const headers = { Accept: "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  let response, body;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
    body = await response.json().catch(nullIfNoJson);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({
      title: "The server cannot be reached",
      detail: "The connection failed, or was cut while the server was working.",
      cure: "Check the network and that the server runs, then try again.",
    });
  }
  if (response.ok && body) return body;
  const unknown = {
    status: response.status,
    title: `The server replied with status ${response.status}`,
    detail: "Its reply is not one of this page’s server; something between may have answered.",
    cure: "Try again. If it stays so, tell whoever runs the server.",
  };
  throw new Problem(body?.title ? body : unknown, Number(response.headers.get("Retry-After")) || null);
}

/** An abort and a cut connection are no reply at all. */
function nullIfNoJson(error) {
  if (error instanceof SyntaxError) return null;
  throw error;
}
