// Lanes and what lies on them, from what is kept of the last day. Pure: the same history makes the same lanes.
import { DETAIL_S } from "./history.js";
import { byName } from "../base.js";
import { partsOf } from "../sentences.js";

const MARKS = {
  failed: "failed", lost: "failed", backoff: "failed", disk_low: "failed", quarantined: "failed", not_configured: "failed",
  configured: "mark", operated: "mark", elected: "mark", loaded: "load", evicted: "evict",
};
const RACE = new Set(["launched", "ready", "kept", "downscaled", "failed", "backoff"]);
const MAX_ROWS = 3;
const BUSY_PARTS = 240;

// {key, name, about, bars: [{from, until, row, parts, kind, job, text}], marks: [{at, kind, text}], busy: {from, each, parts}, rows}
function lane(lanes, key, name, about = "") {
  if (!lanes.has(key)) lanes.set(key, { key, name, about, bars: [], marks: [], busy: null, rows: 1 });
  return lanes.get(key);
}

export function lanesOf(history, workers, models, { from, until, text = "", now }) {
  const lanes = new Map();
  lane(lanes, "platform", "Platform", "configuration, operators, failures");
  for (const event of history.events.list()) addEvent(lanes, event, from, until);
  addRaces(lanes, history.events.list(), models, from, until, now);
  for (const worker of workers.values()) {
    lane(lanes, `w ${worker.worker}`, worker.worker).about = `${worker.device}${worker.state === "gone" ? ", dead" : ""}`;
  }
  if (until - from <= DETAIL_S) {
    for (const job of history.jobs.list()) addJob(lanes, job, from, until, now);
    for (const job of history.underWay) if (!history.jobs.items.has(job.id)) addJob(lanes, job, from, until, now);
  } else {
    addBusy(lanes, history.samples.list(), from, until);
  }
  const wanted = text.trim().toLowerCase();
  const found = [...lanes.values()].filter((one) => !wanted || `${one.name} ${one.about}`.toLowerCase().includes(wanted));
  for (const one of found) pack(one);
  return found.sort((a, b) => rank(a) - rank(b) || byName(a.name, b.name));
}

const rank = (one) => (one.key === "platform" ? 0 : one.key.startsWith("s ") ? 1 : one.key === "none" ? 2 : one.bars.length || one.busy ? 3 : 4);

function addEvent(lanes, event, from, until) {
  const kind = MARKS[event.kind];
  if (!kind || event.at < from || event.at > until) return;
  const isOfWorker = event.worker && event.kind !== "failed" && event.kind !== "backoff";
  const where = isOfWorker ? lane(lanes, `w ${event.worker}`, event.worker) : lanes.get("platform");
  where.marks.push({ at: event.at, kind, text: `${event.kind.replace("_", " ")}: ${event.subject}: ${event.reason}` });
}

// Replicas of a spec from launch to end: what each start took and cost.
function addRaces(lanes, events, models, from, until, now) {
  const replicas = new Map();
  for (const event of events) {
    if (!RACE.has(event.kind) || !event.subject.includes("/")) continue;
    const key = event.worker || event.subject;
    const one = replicas.get(key) || { subject: event.subject, worker: key, launched: 0, ready: 0, ended: 0, notes: [] };
    if (event.kind === "launched") one.launched = event.at;
    if (event.kind === "ready") one.ready = event.at;
    if (event.kind === "downscaled" || event.kind === "failed") one.ended = event.at;
    one.notes.push(`${event.kind}: ${event.reason}`);
    replicas.set(key, one);
  }
  for (const one of replicas.values()) {
    const began = one.launched || one.ready;
    const end = one.ended || now;
    if (!began || end < from || began > until) continue;
    const at = one.subject.lastIndexOf("/");
    const spec = models.get(one.subject.slice(0, at))?.specs.find((found) => found.name === one.subject.slice(at + 1));
    const cost = spec?.price_per_hour ? `, cost ${(spec.price_per_hour * (end - began) / 3600).toFixed(4)}` : "";
    const start = one.ready && one.launched ? `, ready after ${(one.ready - one.launched).toFixed(1)} s` : one.ready ? "" : ", not ready";
    const parts = { queued: 0, fetching: 0, loading: (one.ready || end) - began, running: one.ready ? end - one.ready : 0 };
    lane(lanes, `s ${one.subject}`, one.subject, "spec").bars.push({
      from: began, until: end, parts, kind: one.ready ? "replica" : "failed", text: `replica ${one.worker}${start}${cost}; ${one.notes.join("; ")}`,
    });
  }
}

function addJob(lanes, job, from, until, now) {
  const end = job.finished_at || now;
  if (end < from || job.created_at > until) return;
  const where = job.worker ? lane(lanes, `w ${job.worker}`, job.worker) : lane(lanes, "none", "No worker", "waiting, or never placed");
  const kind = job.status === "failed" || job.status === "expired" ? "failed" : job.status === "cancelled" ? "cancelled" : "job";
  where.bars.push({ from: job.created_at, until: end, parts: partsOf(job, now), kind, job: job.id, model: job.model, text: `${job.model}: ${job.status}, job ${job.id}` });
}

// How many jobs a worker ran, by parts of the window: a thousand workers have many samples in a day.
function addBusy(lanes, samples, from, until) {
  const each = (until - from) / BUSY_PARTS;
  const byWorker = new Map();
  for (const sample of samples) {
    const part = Math.floor((sample.at - 5 - from) / each);
    if (part < 0 || part >= BUSY_PARTS) continue;
    for (const [worker, jobs] of sample.entries ||= Object.entries(sample.busy || {})) { // once for each sample
      let parts = byWorker.get(worker);
      if (!parts) byWorker.set(worker, parts = new Float32Array(BUSY_PARTS));
      if (jobs > parts[part]) parts[part] = jobs;
    }
  }
  for (const [worker, parts] of byWorker) lane(lanes, `w ${worker}`, worker).busy = { from, each, parts };
}

// Bars that overlap come to rows of their own, as far as there is room.
function pack(one) {
  one.bars.sort((a, b) => a.from - b.from);
  const ends = [];
  for (const bar of one.bars) {
    const began = bar.job ? bar.from + (bar.parts.queued || 0) : bar.from; // while it waits it takes no slot
    let row = ends.findIndex((end) => end <= began + 1e-3);
    if (row < 0) row = ends.length < MAX_ROWS ? ends.length : ends.indexOf(Math.min(...ends));
    ends[row] = Math.max(ends[row] || 0, bar.until);
    bar.row = row;
  }
  one.rows = Math.max(ends.length, 1);
}

export function totalsOf(samples, { from, until, model = "" }) {
  const times = [], queued = [], running = [], p95 = [];
  for (const sample of [...samples].sort((a, b) => a.at - b.at)) {
    if (sample.at < from - 30 || sample.at > until + 30) continue;
    const found = Object.entries(sample.models || {}).filter(([name]) => !model || name === model).map(([, one]) => one);
    times.push(sample.at);
    queued.push(found.reduce((sum, one) => sum + (one.queued || 0), 0));
    running.push(found.reduce((sum, one) => sum + (one.running || 0), 0));
    p95.push(found.some((one) => one.p95_s) ? Math.max(...found.map((one) => one.p95_s || 0)) : null);
  }
  return [times, queued, running, p95];
}
