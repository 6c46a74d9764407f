// Models and what they can do; specs, how many replicas of each are wanted and there, and why not more.
import { html, money, moment, plural, seconds, useState } from "../base.js";
import { useLive } from "../live.js";
import { Table } from "../table.js";

function workersWith(workers, model) {
  const up = [...workers.values()].filter((one) => one.state === "live" || one.state === "draining");
  return up.filter((one) => one.memory?.[model] === "hot").length;
}

function abilities(card = {}) {
  const said = [];
  if (card.context_tokens) said.push(`${card.context_tokens} tokens of context`);
  if (card.parameters) said.push(`${(card.parameters / 1e9).toPrecision(2)} B parameters`);
  if (card.quantisation) said.push(card.quantisation);
  return [...said, ...(card.abilities || [])].join(", ");
}

function failures(workers, model) {
  const said = [...workers.values()].filter((one) => one.failed?.[model]);
  return said.length ? `${said[0].worker} could not load it: ${said[0].failed[model]}` : "";
}

export function Models() {
  const { models, workers } = useLive();
  const [text, setText] = useState("");
  const shown = [...models.values()].filter((one) => one.name.toLowerCase().includes(text.trim().toLowerCase()));
  const columns = [
    { name: "model", cell: (one) => one.name },
    { name: "features", cell: (one) => one.features.join(", ") || "function" },
    { name: "in memory on", isNumber: true, cell: (one) => plural(workersWith(workers, one.name), "worker") },
    { name: "waiting", isNumber: true, cell: (one) => one.queue.queued },
    { name: "running", isNumber: true, cell: (one) => one.queue.running },
    { name: "engines", cell: (one) => [...new Set(one.specs.map((spec) => spec.engine))].join(", ") },
    { name: "can", className: "reason", cell: (one) => abilities(one.card) },
    { name: "trouble", className: "reason bad", cell: (one) => one.queue.impossible || failures(workers, one.name) },
    { name: "jobs", cell: (one) => html`<a href=${`/jobs?model=${encodeURIComponent(one.name)}`}>jobs<span class="hidden"> of ${one.name}</span></a>` },
  ];
  return html`<h1>Models</h1>
    ${models.size > 8 && html`<p><label for="filter">Find a model</label> <input id="filter" type="search" value=${text} onInput=${(event) => setText(event.target.value)} /></p>`}
    <${Table} label="Models" columns=${columns} rows=${shown} keyOf=${(one) => one.name} height=${640}
      empty=${text ? "No model matches." : html`There are no models. Add one below <code>models:</code> in the configuration; it is taken while Stoker runs.`} />`;
}

const SPECS = [
  { name: "model", cell: ({ model }) => model },
  { name: "spec", cell: ({ spec }) => (spec.target_requests ? spec.name : `${spec.name} (standby)`) },
  { name: "engine", cell: ({ spec }) => spec.engine },
  { name: "profile", cell: ({ spec }) => spec.profile || "–" },
  { name: "wanted", isNumber: true, cell: ({ spec }) => spec.desired },
  { name: "ready", isNumber: true, cell: ({ spec }) => spec.ready },
  { name: "starting", isNumber: true, cell: ({ spec }) => spec.starting },
  { name: "most", isNumber: true, cell: ({ spec }) => spec.max_replicas ?? "–" },
  { name: "start takes", isNumber: true, cell: ({ spec }) => seconds(spec.start_s) },
  { name: "per hour", isNumber: true, cell: ({ spec }) => (spec.price_per_hour ? money(spec.price_per_hour) : "–") },
  { name: "why not more", className: "reason", cell: ({ spec }) => whyNotMore(spec) },
];

function whyNotMore(spec) {
  if (spec.condition) {
    const again = spec.condition.retry_at ? `; tried again at ${moment(spec.condition.retry_at)}` : "";
    return html`<span class="bad">${spec.condition.reason}: ${spec.condition.message}${again}</span>`;
  }
  if (spec.launcher === "static") return "its workers are started by people";
  if (spec.max_replicas != null && spec.desired >= spec.max_replicas) return "as many as max_replicas allows";
  if (spec.starting) return `${plural(spec.starting, "replica")} starting`;
  return spec.desired ? "enough for what is asked" : "nothing is asked of it";
}

export function Specs() {
  const { models } = useLive();
  const rows = [...models.values()].flatMap((model) => model.specs.map((spec) => ({ model: model.name, spec })));
  return html`<h1>Specs</h1>
    <p class="dim">Ways to serve a model: an engine on a hardware profile. Replicas are launched and stopped as demand asks.</p>
    <${Table} label="Specs and their replicas" columns=${SPECS} rows=${rows} keyOf=${(one) => `${one.model}/${one.spec.name}`} height=${640}
      empty=${html`There are no models, so there is nothing to serve. Add one below <code>models:</code> in the configuration.`} />`;
}
