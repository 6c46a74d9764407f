// Schedules: calls at times that repeat. Made, paused, run beside their times, removed.
import { html, useState } from "../base.js";
import { ask } from "../api.js";
import { Table } from "../table.js";
import { Said, useAsked } from "./operating.js";

const DONE = { pause: "paused", resume: "resumed", remove: "removed" };

function Make({ made }) {
  const [said, say] = useState("");
  async function make(event) {
    event.preventDefault();
    const form = event.target;
    const fields = Object.fromEntries(new FormData(form));
    try {
      const input = fields.input.trim() ? JSON.parse(fields.input) : {};
      await ask("/v1/schedules", { method: "POST", body: { ...fields, input } });
      form.reset();
      say(`${fields.name} was made.`);
      made();
    } catch (error) {
      say(error instanceof SyntaxError ? `The input is not JSON: ${error.message}` : error.message);
    }
  }
  return html`<details><summary>Make a schedule</summary>
    <form onSubmit=${make} class="fields">
      <p><label for="s-name">Name</label><input id="s-name" name="name" required /></p>
      <p><label for="s-model">Model or function</label><input id="s-model" name="model" required /></p>
      <p><label for="s-cron">Times (minute hour day month weekday)</label><input id="s-cron" name="cron" required placeholder="0 6 * * 1-5" /></p>
      <p><label for="s-timezone">Time zone</label><input id="s-timezone" name="timezone" value=${Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC"} /></p>
      <p class="wide"><label for="s-input">Input, as JSON</label><textarea id="s-input" name="input" rows="3" placeholder='{"prompt": "good morning"}'></textarea></p>
      <p><button type="submit">Make it</button> <span role="status">${said}</span></p>
    </form></details>`;
}

export function Schedules() {
  const [found, problem, look] = useAsked("/v1/schedules");
  const [said, say] = useState("");
  async function act(one, verb) {
    try {
      const path = `/v1/schedules/${encodeURIComponent(one.name)}`;
      const answer = verb === "remove" ? await ask(path, { method: "DELETE" }) : await ask(`${path}/${verb}`, { method: "POST" });
      say(verb === "run" ? `The job ${answer.id} was started.` : `${one.name} was ${DONE[verb]}.`);
      look();
    } catch (error) {
      say(error.message);
    }
  }
  const button = (one, verb, text) => html`<button type="button" class="small" onClick=${() => act(one, verb)}>${text}<span class="hidden"> ${one.name}</span></button> `;
  const columns = [
    { name: "schedule", cell: (one) => one.name },
    { name: "model", cell: (one) => one.model },
    { name: "times", cell: (one) => html`<code>${one.cron}</code> ${one.timezone}` },
    { name: "next", cell: (one) => (one.paused ? "paused" : one.next[0] || "–") },
    { name: "last", cell: (one) => (one.last_job ? html`<a href=${`/jobs/${encodeURIComponent(one.last_job)}`}>${one.last_at}</a>` : "–") },
    { name: "trouble", className: "reason bad", cell: (one) => one.last_error },
    { name: "actions", cell: (one) => html`${button(one, "run", "Run now")}${one.paused ? button(one, "resume", "Resume") : button(one, "pause", "Pause")}${button(one, "remove", "Remove")}` },
  ];
  return html`<h1>Schedules</h1><${Said} problem=${problem} /><p role="status">${said}</p>
    ${found && html`<${Table} label="Schedules" columns=${columns} rows=${found.schedules} keyOf=${(one) => one.name} height=${560}
      empty="There are no schedules. Make one here, or with stoker schedule." />`}
    <${Make} made=${look} />`;
}
