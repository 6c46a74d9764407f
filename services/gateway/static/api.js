// Asking the gateway. Everything the dashboard shows comes from its public API.

export class Problem extends Error {
  constructor(status, message, field = "") {
    super(message);
    this.status = status;
    this.field = field;
  }
}

export function messageOf(said, status = 0) {
  const error = said?.error;
  return (typeof error === "string" ? error : error?.message) || said?.detail || said?.message || `the request failed (${status})`;
}

export async function request(path, { method = "GET", body, signal, headers = {} } = {}) {
  const isForm = body instanceof FormData;
  const sent = body === undefined || isForm ? body : JSON.stringify(body);
  const typed = body === undefined || isForm ? headers : { "Content-Type": "application/json", ...headers };
  let answer;
  try {
    answer = await fetch(path, { method, body: sent, signal, headers: typed });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "the gateway does not answer; is it running?");
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => null);
    throw new Problem(answer.status, messageOf(said, answer.status), said?.field || said?.error?.param || "");
  }
  return answer;
}

export async function ask(path, options) {
  const answer = await request(path, options);
  return answer.status === 204 ? null : answer.json();
}

export function query(path, fields) {
  const given = Object.entries(fields).filter(([, value]) => value !== "" && value != null && value !== 0);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

// The events of a streamed answer: {event, data} with data as JSON where it is that; comments as {comment}.
export async function* eventsOf(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) yield* eventOf(part);
  }
}

function* eventOf(part) {
  let event = "message";
  const data = [];
  for (const line of part.split("\n")) {
    if (line.startsWith(": ")) yield { comment: line.slice(2) };
    else if (line.startsWith("event: ")) event = line.slice(7);
    else if (line.startsWith("data: ")) data.push(line.slice(6));
    else if (line === "data:") data.push("");
  }
  const text = data.join("\n");
  if (!data.length || text === "[DONE]") return;
  try {
    yield { event, data: JSON.parse(text) };
  } catch {
    yield { event, data: text };
  }
}
