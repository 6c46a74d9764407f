// What operators look after: keys, what could not be handled, and the configuration.
import { html, moment, useEffect, useState } from "../base.js";
import { ask } from "../api.js";
import { useLive } from "../live.js";
import { Table } from "../table.js";
import { Events } from "./fleet.js";

const EVERY_MS = 5000;

export function useAsked(path, every = EVERY_MS) {
  const [state, setState] = useState({ value: null, problem: "" });
  async function look() {
    try {
      setState({ value: await ask(path), problem: "" });
    } catch (error) {
      setState((before) => ({ ...before, problem: error.message }));
    }
  }
  useEffect(() => {
    look();
    const timer = setInterval(() => { if (!document.hidden) look(); }, every);
    return () => clearInterval(timer);
  }, [path]);
  return [state.value, state.problem, look];
}

export function Said({ problem }) {
  return problem && html`<p role="alert" class="bad">${problem}</p>`;
}

const limit = (value) => value || "–";
const KEYS = [
  { name: "key", cell: (one) => html`<a href=${`/jobs?key=${one.id}`}>${one.id}</a>` },
  { name: "name", cell: (one) => one.name },
  { name: "role", cell: (one) => one.role },
  { name: "made", cell: (one) => moment(one.created_at) },
  { name: "models", className: "reason", cell: (one) => one.models.join(", ") || "any" },
  { name: "a minute", isNumber: true, cell: (one) => limit(one.requests_per_minute) },
  { name: "a day", isNumber: true, cell: (one) => limit(one.requests_per_day) },
  { name: "tokens a minute", isNumber: true, cell: (one) => limit(one.tokens_per_minute) },
  { name: "device s a day", isNumber: true, cell: (one) => limit(one.device_seconds_per_day) },
  { name: "at a time", isNumber: true, cell: (one) => limit(one.concurrency) },
  { name: "weight", isNumber: true, cell: (one) => one.weight },
];

export function Keys() {
  const [found, problem] = useAsked("/v1/keys");
  return html`<h1>Keys</h1><${Said} problem=${problem} />
    ${found && !found.is_required && html`<p>Nobody is asked for a key: only this machine can reach the gateway, or it was started with <code>--insecure</code>.</p>`}
    ${found && html`<${Table} label="API keys" columns=${KEYS} rows=${found.keys} keyOf=${(one) => one.id} height=${560}
      empty=${html`There are no keys. <code>stoker keys create NAME --role operate</code> makes one and prints its secret, once.`} />`}
    <p class="dim">Keys are made with <code>stoker keys create NAME</code> and revoked with <code>stoker keys revoke ID</code>.</p>`;
}

export function Quarantine() {
  const [found, problem] = useAsked("/v1/quarantine");
  const columns = [
    { name: "number", cell: (one) => one.number },
    { name: "what", cell: ({ message }) => message.source },
    { name: "job", cell: ({ message }) => (message.job ? html`<a href=${`/jobs/${encodeURIComponent(message.job)}`}>${message.job}</a>` : "–") },
    { name: "since", cell: ({ message }) => moment(message.at) },
    { name: "why", className: "reason", cell: ({ message }) => message.reason },
    { name: "send again", cell: ({ number }) => html`<code>stoker quarantine retry ${number}</code>` },
  ];
  return html`<h1>Quarantine</h1><${Said} problem=${problem} />
    ${found && html`<${Table} label="What could not be handled" columns=${columns} rows=${found.entries} keyOf=${(one) => one.number} height=${560}
      empty="Nothing was put aside: every job and webhook of the last week could be handled." />`}
    <p class="dim">Once what was wrong is mended, <code>stoker quarantine retry NUMBER</code> sends a message again, and
      <code>stoker quarantine discard NUMBER</code> removes it. Services may not: they cannot remove what is stored.</p>`;
}

export function Configuration() {
  const { configuration, events } = useLive();
  const [said, say] = useState("");
  async function reload() {
    say("reading…");
    try {
      const answer = await ask("/api/modes/reload", { method: "POST" });
      say(answer.message || answer.status || "read");
    } catch (error) {
      say(error.message);
    }
  }
  const changes = events.filter((one) => ["configured", "not_configured", "operated"].includes(one.kind));
  const failed = configuration?.failed;
  return html`<h1>Configuration</h1>
    <p>${configuration?.revision ? `Revision ${configuration.revision} is in use since ${moment(configuration.at)}.` : "No revision was read yet."}</p>
    ${failed ? html`<div class="card bad" role="alert"><h2>The files as they are now were not taken</h2>
        <p>${moment(failed.at)}, by ${failed.gateway}: ${failed.reason}</p>
        ${failed.file && html`<p><code>${failed.file}${failed.line ? `:${failed.line}` : ""}</code>${failed.field ? html`, field <code>${failed.field}</code>` : ""}</p>`}
        <p>The revision before stays in use. <code>stoker check PATH</code> says what is wrong before it is saved.</p></div>`
      : html`<p>The files are what is in use.</p>`}
    <p><button type="button" onClick=${reload}>Read the files again</button> <span role="status">${said}</span></p>
    <h2>Changes of the last day</h2>
    <${Events} events=${changes} />`;
}
