// The fleet: workers with what they have in memory, queues, and what happened. A thousand workers are filtered and
// scrolled through; of models only those that are in memory are named.
import { TIERS, byName, clock, html, megabytes, seconds, useState } from "../base.js";
import { useLive } from "../live.js";
import { Table } from "../table.js";

const SHOWN_MODELS = 4;
const SHOWN_EVENTS = 60;
const ORDER = { gone: 0, silent: 1, draining: 2, live: 3 };
const STATES = { live: "", draining: "draining", silent: "silent", gone: "dead" };

function InMemory({ worker }) {
  const held = Object.entries(worker.memory || {});
  const isDead = worker.state === "gone" || worker.state === "silent";
  const rest = held.length - SHOWN_MODELS;
  return html`
    ${held.slice(0, SHOWN_MODELS).map(([model, tier]) => html`
      <span key=${model} class=${`tier ${isDead ? "dead" : tier}`}>${model} <small>${isDead ? "unknown" : TIERS[tier]}</small></span> `)}
    ${rest > 0 && html`<span class="dim">and ${rest} more </span>`}
    ${!held.length && html`<span class="dim">nothing loaded</span>`}
    ${worker.on_disk > 0 && html`<span class="dim"> · ${worker.on_disk} on disk</span>`}`;
}

const WORKERS = [
  { name: "worker", cell: (one) => html`${one.worker}${STATES[one.state] && html` <em class="state">${STATES[one.state]}</em>`}` },
  { name: "models in memory", className: "chips", cell: (one) => html`<${InMemory} worker=${one} />` },
  { name: "jobs", isNumber: true, cell: (one) => one.jobs || 0 },
  { name: "memory", cell: (one) => html`
      <meter min="0" max=${one.total_mb || 1} value=${one.used_mb} aria-label=${`memory of ${one.worker}`}></meter>
      <span class="dim"> ${megabytes(one.used_mb)} of ${megabytes(one.total_mb)}</span>` },
  { name: "device", cell: (one) => one.device },
];
const QUEUES = [
  { name: "model", cell: (one) => one.name },
  { name: "waiting", isNumber: true, cell: (one) => one.queue.queued },
  { name: "running", isNumber: true, cell: (one) => one.queue.running },
  { name: "longest wait", isNumber: true, cell: (one) => seconds(one.queue.oldest_wait_s || 0) },
  { name: "a new job waits", isNumber: true, cell: (one) => seconds(one.queue.eta_s) },
  { name: "note", className: "reason", cell: (one) => one.queue.impossible || "" },
];

function fits(worker, text) {
  if (!text) return true;
  const names = [worker.worker, worker.device, worker.host, worker.profile, worker.state, ...Object.keys(worker.memory || {})];
  return names.join(" ").toLowerCase().includes(text);
}

export function Fleet() {
  const { workers, models, events } = useLive();
  const [text, setText] = useState("");
  const [onlyBusy, setOnlyBusy] = useState(false);
  const shown = [...workers.values()].filter((one) => fits(one, text.trim().toLowerCase()))
    .sort((a, b) => ORDER[a.state] - ORDER[b.state] || byName(a.worker, b.worker));
  const queues = [...models.values()].filter((one) => !onlyBusy || one.queue.queued || one.queue.running);
  return html`
    <h1>Fleet</h1>
    <section aria-labelledby="h-workers">
      <h2 id="h-workers">Workers</h2>
      ${workers.size > 8 && html`<p><label for="filter">Find a worker, device or model</label>
        <input id="filter" type="search" value=${text} onInput=${(event) => setText(event.target.value)} />
        <span role="status" class="dim">${shown.length} of ${workers.size}</span></p>`}
      <${Table} label="Workers, those in trouble first" columns=${WORKERS} rows=${shown} keyOf=${(one) => one.worker} height=${520}
        rowClass=${(one) => one.state}
        empty=${text ? "No worker matches." : html`No worker has reported. Start one with <code>stoker worker</code>, or give <code>workers:</code> in the configuration.`} />
    </section>
    <section aria-labelledby="h-queues">
      <h2 id="h-queues">Queues</h2>
      ${models.size > 8 && html`<p><label class="check"><input type="checkbox" checked=${onlyBusy} onChange=${(event) => setOnlyBusy(event.target.checked)} /> only models with jobs</label></p>`}
      <${Table} label="Queues by model" columns=${QUEUES} rows=${queues} keyOf=${(one) => one.name} height=${420}
        empty=${onlyBusy ? "No job waits or runs." : html`There are no models. Add one below <code>models:</code> in the configuration.`} />
    </section>
    <section aria-labelledby="h-events">
      <h2 id="h-events">Events</h2>
      <${Events} events=${events.slice(0, SHOWN_EVENTS)} />
    </section>`;
}

export function Events({ events }) {
  if (!events.length) return html`<p class="empty">Nothing has happened in the last day.</p>`;
  return html`<ol class="events" tabindex="0" aria-label="What happened and why, newest first">
    ${events.map((one) => html`<li key=${one.key}><time>${clock(one.at)}</time> <span class=${`kind ${one.kind}`}>${one.kind.replace("_", " ")}</span> <strong>${one.subject}</strong>${one.worker && one.worker !== one.subject ? ` ${one.worker}` : ""}: ${one.reason}</li>`)}
  </ol>`;
}
