// One job, at an address of its own: what became of it and why, its time, result, log; cancel and retry.
import { TIERS, html, moment, seconds, useEffect, useRef, useState } from "../base.js";
import { ask, query, request } from "../api.js";
import { live } from "../live.js";
import { go } from "../navigate.js";
import { Status, Table } from "../table.js";
import { TimeBar, sentencesOf } from "../sentences.js";
import { Result } from "./result.js";

const EVERY_MS = 500;
const NOTED_WITHIN_S = 10;
const CANDIDATES = [
  { name: "worker", cell: (one) => one.worker },
  { name: "tier", cell: (one) => TIERS[one.tier] || one.tier },
  { name: "wait", isNumber: true, cell: (one) => seconds(one.wait_s) },
  { name: "load", isNumber: true, cell: (one) => seconds(one.load_s) },
  { name: "run", isNumber: true, cell: (one) => seconds(one.run_s) },
  { name: "verdict", className: "reason", cell: (one) => one.verdict || "" },
];

// The job; after an hour, when its result is gone, what the history still knows of it.
async function find(id) {
  try {
    return await ask(`/v1/jobs/${encodeURIComponent(id)}`);
  } catch (error) {
    if (error.status !== 404) throw error;
    const { jobs } = await ask(query("/v1/history/jobs", { job: id, limit: 1 })).catch(() => ({ jobs: [] }));
    if (!jobs.length) throw error;
    return { ...jobs[0], timings: jobs[0], isOld: true };
  }
}

const mayOperate = () => live.own?.role !== "use";

// How long a job waited for its model to be loaded is noted with its end, a second later. Whether it was there.
async function withHistory(job) {
  if (Date.now() / 1000 - job.finished_at > NOTED_WITHIN_S) job.isNoted = true;
  const asked = { job: job.id, from: job.finished_at - 1, until: job.finished_at + NOTED_WITHIN_S, limit: 1 };
  const { jobs } = await ask(query("/v1/history/jobs", asked)).catch(() => ({ jobs: [] }));
  if (jobs.length) job.timings = { ...jobs[0] };
  return jobs.length > 0 || Boolean(job.isNoted);
}

function useJob(id) {
  const [state, setState] = useState({ job: null, why: null, log: "", problem: "" });
  const isOver = useRef(false);
  async function look() {
    try {
      const path = `/v1/jobs/${encodeURIComponent(id)}`;
      const job = await find(id);
      const why = job.isOld ? null : await ask(`${path}/explain`).catch(() => null);
      const log = job.isOld ? "" : await request(`${path}/log`).then((answer) => answer.text()).catch(() => "");
      const worker = live.workers.get(job.worker);
      if (job.status === "assigned" && worker?.memory?.[job.model] === "hot") job.part = "running";
      isOver.current = Boolean(job.finished_at) && (job.isOld || !mayOperate() || await withHistory(job));
      setState({ job, why, log, problem: "" });
    } catch (error) {
      isOver.current = error.status === 404 || error.status === 403;
      setState((before) => ({ ...before, problem: error.message }));
    }
  }
  useEffect(() => {
    look();
    const timer = setInterval(() => { if (!isOver.current && !document.hidden) look(); }, EVERY_MS);
    return () => clearInterval(timer);
  }, [id]);
  return [state, look];
}

function Actions({ job, look }) {
  const [said, say] = useState("");
  const path = `/v1/jobs/${encodeURIComponent(job.id)}`;
  async function act(verb) {
    try {
      const answer = await ask(`${path}/${verb}`, { method: "POST" });
      if (verb === "retry") go(`/jobs/${encodeURIComponent(answer.id)}`);
      else say("It will stop in a moment.");
      look();
    } catch (error) {
      say(error.message);
    }
  }
  const canRetry = ["failed", "cancelled", "expired"].includes(job.status) && !job.isOld;
  const text = JSON.stringify(job.result ?? job, null, 2);
  const download = `data:application/json;charset=utf-8,${encodeURIComponent(text)}`;
  return html`<p class="actions">
    ${!job.finished_at && html`<button type="button" onClick=${() => act("cancel")}>Cancel</button>`}
    ${canRetry && html`<button type="button" onClick=${() => act("retry")}>Run it again</button>`}
    ${job.result != null && html`<a class="button" href=${download} download=${`${job.id}.json`}>Download the result</a>`}
    <span role="status">${said}</span>
  </p>`;
}

export function JobPage({ id }) {
  const [{ job, why, log, problem }, look] = useJob(id);
  if (!job) {
    return html`<h1>Job</h1><p role="status" class=${problem ? "bad" : "dim"}>${problem || "Looking…"}</p>
      ${problem && html`<p>Results are kept for an hour, and what ended in the last day is in the <a href="/timeline">timeline</a>.
        <a href="/jobs">All jobs</a></p>`}`;
  }
  return html`
    <p><a href="/jobs">Jobs</a></p>
    <h1><span class="mono">${job.id}</span></h1>
    <p><strong>${job.model}</strong> <${Status} value=${job.status} /> <span class="dim">accepted ${moment(job.created_at)}${job.key ? `, key ${job.key}` : ""}</span></p>
    ${problem && html`<p role="alert" class="bad">${problem}</p>`}
    <${TimeBar} job=${job} now=${Date.now() / 1000} />
    <section aria-labelledby="h-why"><h2 id="h-why">What became of it</h2>
      <p id="sentences" role="status">${sentencesOf(job, why).join(" ")}</p>
      ${job.isOld && html`<p class="dim">Its result is no longer kept.</p>`}
    </section>
    ${job.error && html`<section aria-labelledby="h-error"><h2 id="h-error">Error</h2>
      <p class="bad"><strong>${job.error.kind}</strong>${job.error.field ? ` (${job.error.field})` : ""}: ${job.error.message}</p></section>`}
    <${Actions} job=${job} look=${look} />
    ${job.result != null && html`<section aria-labelledby="h-result"><h2 id="h-result">Result</h2><${Result} job=${job} /></section>`}
    ${log && html`<section aria-labelledby="h-log"><h2 id="h-log">Log</h2><pre tabindex="0">${log}</pre></section>`}
    ${(job.children?.length > 0 || job.parent) && html`<section aria-labelledby="h-calls"><h2 id="h-calls">Calls</h2>
      ${job.parent && html`<p>Called by <a href=${`/jobs/${encodeURIComponent(job.parent)}`}>${job.parent}</a></p>`}
      <ul>${(job.children || []).map((one) => html`<li key=${one.id}><a href=${`/jobs/${encodeURIComponent(one.id)}`}>${one.id}</a> ${one.model} <${Status} value=${one.status} /></li>`)}</ul></section>`}
    ${why?.candidates?.length > 0 && html`<section aria-labelledby="h-workers"><h2 id="h-workers">Workers that were considered</h2>
      <${Table} label="Candidates, the chosen one first" columns=${CANDIDATES} rows=${why.candidates} keyOf=${(one) => `${one.worker} ${one.spec}`} empty="" /></section>`}`;
}
