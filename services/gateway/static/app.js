// The dashboard. Everything it shows comes from the public API; nothing is kept here but what is on the screen.

const $ = (id) => document.getElementById(id);
const TIERS = { hot: "hot", loading: "loading", base: "base", parked: "parked", warm: "on disk" };
const SHOWN_EVENTS = 60;
const JOBS_EVERY_MS = 2000;

// Text only: whatever a model, a worker or a prompt is called can never become markup.
function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function fill(table, headings, rows) {
  const head = element("thead");
  const line = element("tr");
  for (const heading of headings) {
    const cell = element("th", heading);
    cell.scope = "col";
    line.append(cell);
  }
  head.append(line);
  const body = element("tbody");
  for (const row of rows) {
    const tr = element("tr");
    row.forEach((value, index) => {
      const cell = element(index === 0 ? "th" : "td");
      if (index === 0) cell.scope = "row";
      if (value instanceof Node) cell.append(value);
      else cell.textContent = value;
      if (typeof value === "number") cell.className = "number";
      tr.append(cell);
    });
    body.append(tr);
  }
  table.replaceChildren(head, body);
}

const seconds = (value) => (value == null ? "–" : value < 10 ? `${value.toFixed(2)} s` : `${Math.round(value)} s`);
const megabytes = (bytes) => `${Math.round(bytes / 1e6)} MB`;
const clock = (at) => new Date(at * 1000).toLocaleTimeString();

// Fleet, queues, specs ------------------------------------------------------------------------------

function showFleet(fleet) {
  const models = fleet.models.map((model) => model.name);
  const rows = fleet.workers.map((worker) => {
    const memory = `${megabytes(worker.memory_used_bytes)} of ${megabytes(worker.memory_total_bytes)}`;
    const tiers = Object.fromEntries((worker.models || []).map((one) => [one.model, one.tier]));
    const cells = models.map((model) => element("span", TIERS[tiers[model]] || "–", `tier ${tiers[model] || "cold"}`));
    const name = worker.is_draining ? `${worker.worker} (draining)` : worker.worker;
    return [name, worker.device, memory, (worker.running || []).length, ...cells];
  });
  fill($("fleet"), ["worker", "device", "models' memory", "jobs", ...models], rows);
  fill($("queues"), ["model", "waiting", "running", "longest wait", "eta"], fleet.models.map((model) => [
    model.name, model.queue.queued, model.queue.running,
    seconds(model.queue.oldest_wait_s || 0), seconds(model.queue.eta_s),
  ]));
  const launched = fleet.models.filter((model) => model.specs.length > 1 || model.specs[0].profile);
  $("specs-section").hidden = launched.length === 0;
  fill($("specs"), ["model", "spec", "engine", "profile", "wanted", "ready", "starting", "why not more"],
    launched.flatMap((model) => model.specs.map((spec) => [
      model.name, spec.target_requests ? spec.name : `${spec.name} (standby)`, spec.engine, spec.profile || "–",
      spec.desired, spec.ready, spec.starting,
      spec.condition ? `${spec.condition.reason}: ${spec.condition.message}` : "–",
    ])));
  const waiting = fleet.models.reduce((sum, model) => sum + model.queue.queued, 0);
  const running = fleet.models.reduce((sum, model) => sum + model.queue.running, 0);
  $("state").textContent = `workers: ${fleet.workers.length}, jobs running: ${running}, waiting: ${waiting}`;
  showConfiguration(fleet.configuration);
  showModels(fleet.models);
}

function showConfiguration({ revision, at, failed }) {
  const text = failed
    ? `configuration ${revision} stays in use: the last reload, ${clock(failed.at)}, failed: ${failed.reason}`
    : revision ? `configuration ${revision}, ${clock(at)}` : "";
  const shown = $("configuration");
  if (shown.textContent !== text) shown.textContent = text; // what is set again is read out again
  shown.className = failed ? "failed" : "";
}

function showModels(models) {
  const usable = models.filter((model) => model.features.some((one) => /TextGeneration|ImageGeneration/.test(one)));
  const names = usable.map((model) => model.name).join("\n");
  const select = $("model");
  if (select.dataset.names === names) return;
  const chosen = select.value;
  select.dataset.names = names;
  select.replaceChildren(...usable.map((model) => {
    const option = element("option", model.name);
    option.value = model.name;
    option.dataset.kind = model.features.includes("TextGeneration") ? "text" : "image";
    return option;
  }));
  if (usable.some((model) => model.name === chosen)) select.value = chosen;
}

// Events and jobs -----------------------------------------------------------------------------------

function showEvent(event) {
  const item = element("li");
  const time = element("time", clock(event.at));
  const where = event.worker && event.worker !== event.subject ? ` ${event.worker}` : "";
  item.append(time, ` ${event.kind} `, element("strong", event.subject), `${where}: ${event.reason}`);
  $("events").prepend(item);
  while ($("events").childElementCount > SHOWN_EVENTS) $("events").lastElementChild.remove();
}

async function showJobs() {
  const answer = await fetch("/v1/jobs?limit=12");
  if (!answer.ok) return;
  const { jobs } = await answer.json();
  fill($("jobs"), ["job", "model", "status", "worker", "attempt"], jobs.map((job) => {
    const button = element("button", `…${job.id.slice(-8)}`, "plain");
    button.type = "button";
    button.title = "Show its timeline";
    button.addEventListener("click", () => showJob(job.id));
    return [button, job.model, job.status, job.worker || "–", job.attempt || 0];
  }));
}

async function showJob(id) {
  const [job, why] = await Promise.all([fetch(`/v1/jobs/${id}`), fetch(`/v1/jobs/${id}/explain`)]);
  const found = await job.json();
  const panel = $("job");
  panel.hidden = false;
  const timings = found.timings || {};
  const bar = element("div", "", "bar");
  for (const part of ["queued", "load", "run"]) {
    const span = element("span", "", part);
    span.style.flexGrow = 1000 * Math.max(timings[`${part}_s`] || 0, 0.001);
    span.title = `${part} ${seconds(timings[`${part}_s`] || 0)}`;
    bar.append(span);
  }
  const times = ["queued", "load", "run"].map((part) => `${part} ${seconds(timings[`${part}_s`] || 0)}`).join(", ");
  panel.replaceChildren(element("h3", `${found.model}: ${found.status}`), bar, element("p", times));
  if (found.error) panel.append(element("p", `${found.error.kind}: ${found.error.message}`));
  if (why.ok) {
    const decision = await why.json();
    panel.append(element("p", `${decision.chosen}, because ${decision.reason}`));
    const table = element("table");
    fill(table, ["worker", "tier", "wait", "load", "run", "verdict"], (decision.candidates || []).map((one) => [
      one.worker, one.tier, seconds(one.wait_s), seconds(one.load_s), seconds(one.run_s), one.verdict || "",
    ]));
    const scroll = element("div", "", "scroll");
    scroll.append(table);
    panel.append(scroll);
  }
}

// Playground ----------------------------------------------------------------------------------------

let underWay = null;

async function* eventsOf(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("");
      if (data && data !== "[DONE]") yield JSON.parse(data);
      else if (part.startsWith(": ")) $("told").textContent = part.slice(2);
    }
  }
}

function messageOf(problem) {
  return problem?.error?.message || problem?.detail || "the request failed";
}

async function send() {
  const model = $("model").value;
  const isText = $("model").selectedOptions[0]?.dataset.kind === "text";
  const prompt = $("prompt").value;
  const path = isText ? "/v1/chat/completions" : "/v1/images/generations";
  const body = isText
    ? { model, stream: true, messages: [{ role: "user", content: prompt }] }
    : { model, prompt, stream: true, partial_images: 3 };
  const began = performance.now();
  let first = null;
  const answer = await fetch(path, {
    method: "POST", body: JSON.stringify(body), signal: underWay.signal, headers: { "Content-Type": "application/json" },
  });
  if (!answer.ok) throw new Error(messageOf(await answer.json()));
  for await (const event of eventsOf(answer)) {
    if (event.error) throw new Error(messageOf(event));
    first ??= performance.now() - began;
    if (isText) {
      $("answer").textContent += event.choices?.[0]?.delta?.content || "";
    } else {
      $("picture").alt = event.type.endsWith("completed") ? prompt : `preview of ${prompt}`;
      $("picture").src = `data:image/png;base64,${event.b64_json}`;
      $("picture").hidden = false;
    }
  }
  const spec = answer.headers.get("x-stoker-spec");
  const all = performance.now() - began;
  $("told").textContent = `first after ${Math.round(first ?? all)} ms, done after ${Math.round(all)} ms${spec ? `, spec ${spec}` : ""}`;
}

$("play").addEventListener("submit", async (event) => {
  event.preventDefault();
  underWay?.abort();
  underWay = new AbortController();
  $("answer").textContent = "";
  $("picture").hidden = true;
  $("told").textContent = "sent…";
  $("send").disabled = true;
  $("cancel").disabled = false;
  try {
    await send();
  } catch (error) {
    $("told").textContent = error.name === "AbortError" ? "cancelled" : error.message;
  } finally {
    $("send").disabled = false;
    $("cancel").disabled = true;
  }
});
$("cancel").addEventListener("click", () => underWay?.abort());

$("modes").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await fetch("/api/modes/switch", {
    method: "POST", body: JSON.stringify({ mode: $("mode").value }), headers: { "Content-Type": "application/json" },
  });
  const said = await answer.json();
  $("told").textContent = said.message || said.status || messageOf(said);
});

// Where keys are asked for: a cookie, for event streams send no headers. No script can read it.
$("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const headers = { Authorization: `Bearer ${$("key").value}` };
  const answer = await fetch("/dashboard/session", { method: "POST", headers });
  if (answer.ok) location.reload();
  else $("state").textContent = "this key is not valid";
});

async function showModes() {
  const answer = await fetch("/api/modes");
  $("key-form").hidden = answer.status !== 401;
  if (!answer.ok) return;
  const { modes } = await answer.json();
  const names = Object.keys(modes || {});
  $("modes").hidden = names.length === 0;
  $("mode").replaceChildren(...names.map((name) => element("option", name)));
}

// Streams ---------------------------------------------------------------------------------------------

const fleet = new EventSource("/v1/fleet/stream");
fleet.addEventListener("fleet", (event) => showFleet(JSON.parse(event.data)));
fleet.addEventListener("error", () => { $("state").textContent = "the gateway does not answer; trying again…"; });
const happenings = new EventSource(`/v1/events/stream?last=${SHOWN_EVENTS}`);
for (const kind of [
  "assigned", "evicted", "launched", "ready", "kept", "downscaled", "failed", "backoff", "joined", "lost", "drained",
  "elected", "loaded",
]) happenings.addEventListener(kind, (event) => showEvent(JSON.parse(event.data)));
showModes();
showJobs();
setInterval(showJobs, JOBS_EVERY_MS);
