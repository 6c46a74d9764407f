// What became of a job and why, as sentences; and its time as a bar.
import { html, plural, seconds } from "./base.js";

export const PARTS = [
  ["queued", "queued"], ["fetching", "fetching"], ["loading", "loading"], ["running", "running"],
];

// Seconds by part. A job that is under way has what is known, and the rest until now in the part that it is in.
export function partsOf(job, now) {
  const told = job.timings || job; // of an answer, or of the history
  const fetching = told.fetch_s || 0;
  const parts = {
    queued: told.queued_s || 0, fetching, loading: Math.max((told.load_s || 0) - fetching, 0), running: told.run_s || 0,
  };
  if (!job.finished_at && job.created_at) {
    const known = parts.queued + parts.fetching + parts.loading + parts.running;
    const part = job.status === "queued" ? "queued" : job.part || (job.status === "assigned" ? "loading" : "running");
    parts[part] += Math.max(now - job.created_at - known, 0);
  }
  return parts;
}

export function TimeBar({ job, now }) {
  const parts = partsOf(job, now);
  const all = PARTS.reduce((sum, [name]) => sum + parts[name], 0) || 1;
  const text = PARTS.filter(([name]) => parts[name] > 0).map(([name]) => `${name} ${seconds(parts[name])}`).join(", ");
  return html`
    <div class="bar" role="img" aria-label=${`Its time: ${text || "none yet"}`}>
      ${PARTS.filter(([name]) => parts[name] > 0).map(([name]) => html`
        <span key=${name} class=${name} style=${{ width: `${(100 * parts[name]) / all}%` }} title=${`${name} ${seconds(parts[name])}`}></span>`)}
    </div>
    <p class="legend">${PARTS.map(([name]) => html`<span key=${name}><i class=${`swatch ${name}`}></i>${name} ${seconds(parts[name])}</span> `)}</p>`;
}

function waited(job) {
  if (job.status !== "queued") {
    const queued = job.timings?.queued_s;
    return queued == null ? "" : queued < 0.05 ? "It was placed at once." : `It waited ${seconds(queued)} in the queue.`;
  }
  const place = job.position == null ? "" : job.position === 0 ? " It is the next one." : ` ${plural(job.position, "job is", "jobs are")} before it.`;
  const eta = job.eta_s == null ? " When it starts cannot be said yet." : ` It should start in about ${seconds(job.eta_s)}.`;
  const reason = job.waiting_for ? ` It waits for ${job.waiting_for}.` : "";
  return `It waits in the queue of ${job.model}.${place}${eta}${reason}`;
}

function placed(job, why) {
  if (!why) return "";
  const verb = job.status === "queued" ? "is meant for" : job.finished_at ? "went to" : "is on";
  const others = (why.candidates || []).slice(1);
  const looked = why.considered > 1 ? ` ${plural(why.considered, "worker was", "workers were")} looked at.` : " There was no other worker.";
  const second = others[0] && others[0].verdict ? ` The next best, ${others[0].worker}, ${others[0].verdict.replace(/^lost: /, "would have ended ").replace("would have ended a tie that went", "was as good, and it went")}.` : "";
  return `It ${verb} ${why.chosen}: ${why.reason}.${looked}${second}`;
}

function ran(job) {
  const timings = job.timings || {};
  const said = [];
  if (timings.fetch_s > 0.0005) said.push(`Fetching the weights took ${seconds(timings.fetch_s)}.`);
  const loading = (timings.load_s || 0) - (timings.fetch_s || 0);
  if (loading > 0.0005) said.push(`Loading the model took ${seconds(loading)}.`);
  if (timings.run_s) said.push(`It ran for ${seconds(timings.run_s)}${job.spec ? ` on the spec ${job.spec}` : ""}.`);
  if (job.attempt > 1) said.push(`This was attempt ${job.attempt}: earlier ones were lost or had to go elsewhere.`);
  return said.join(" ");
}

const ENDS = {
  completed: "It completed.", failed: "It failed", cancelled: "It was cancelled.", expired: "It was given up",
};

function ended(job) {
  if (!job.finished_at) return job.status === "running" ? "It runs." : "";
  const after = ` ${seconds(job.finished_at - job.created_at)} after it was accepted.`;
  const reason = job.error?.message ? `: ${job.error.message}` : "";
  return `${(ENDS[job.status] || job.status).replace(/\.$/, "")}${after.replace(/\.$/, "")}${reason.replace(/\.$/, "")}.`;
}

export function sentencesOf(job, why) {
  return [waited(job), placed(job, why), ran(job), ended(job)].filter(Boolean);
}
