// What is known of the fleet now, kept by the event streams. Pages look with `useLive` and are drawn again at most
// once for each frame of the screen, however many changes come.
import { useEffect, useReducer } from "./base.js";

const KEPT_EVENTS = 300;
export const EVENT_KINDS = [
  "assigned", "evicted", "launched", "ready", "kept", "downscaled", "failed", "backoff", "joined", "lost",
  "suspected", "drained", "elected", "loaded", "disk_low", "disk_ok", "quarantined", "operated", "configured",
  "not_configured",
];

export const live = {
  workers: new Map(), models: new Map(), configuration: null, events: [], connection: "connecting", own: null,
};

const watchers = new Set();
let isDue = false;

export function changed() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    for (const watcher of watchers) watcher();
  });
}

export function useLive() {
  const [, again] = useReducer((count) => count + 1, 0);
  useEffect(() => {
    watchers.add(again);
    return () => watchers.delete(again);
  }, []);
  return live;
}

// Takes what /v1/fleet/changes says.
export function take({ workers = [], workers_gone = [], models = [], models_gone = [], configuration }) {
  for (const worker of workers) live.workers.set(worker.worker, worker);
  for (const name of workers_gone) live.workers.delete(name);
  for (const model of models) live.models.set(model.name, model);
  for (const name of models_gone) live.models.delete(name);
  if (configuration) live.configuration = configuration;
  changed();
}

let lastEvent = 0;

export function takeEvent(event) {
  lastEvent += 1;
  live.events = [{ ...event, key: lastEvent }, ...live.events].slice(0, KEPT_EVENTS);
  if (event.kind === "lost" || event.kind === "drained") { // before its silence is noticed here
    const worker = live.workers.get(event.worker || event.subject);
    if (worker && worker.state !== "gone") live.workers.set(worker.worker, { ...worker, state: "gone" });
  }
  changed();
}

function connection(state) {
  if (live.connection === state) return;
  live.connection = state;
  changed();
}

let streams = [];

export function watch() {
  for (const stream of streams) stream.close();
  const fleet = new EventSource("/v1/fleet/changes");
  fleet.addEventListener("open", () => {
    live.workers.clear(); // everything comes once, then what has changed
    live.models.clear();
    connection("live");
  });
  fleet.addEventListener("changes", (event) => take(JSON.parse(event.data)));
  fleet.addEventListener("error", () => connection("away"));
  const events = new EventSource("/v1/events/stream?last=100");
  events.addEventListener("open", () => { live.events = []; });
  for (const kind of EVENT_KINDS) events.addEventListener(kind, (event) => takeEvent(JSON.parse(event.data)));
  streams = [fleet, events];
}
