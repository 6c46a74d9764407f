async ([workers, updates, jobs, span]) => {
  const { lanesOf, totalsOf } = await import("/static/timeline/lanes.js");
  const { drawLanes, colours } = await import("/static/timeline/draw.js");
  const now = 1700000000, view = { from: now - span, until: now };
  const kept = (items, keyOf) => ({ items: new Map(items.map((one) => [keyOf(one), one])), list() { return [...this.items.values()]; } });
  const history = {
    jobs: kept([...Array(jobs).keys()].map((n) => ({
      id: `j${n}`, model: `model-${n % 200}`, status: n % 50 ? "completed" : "failed", worker: `worker-${n % workers}`,
      created_at: now - span + (n * span) / jobs, finished_at: now - span + (n * span) / jobs + 20, queued_s: 1, load_s: 2, run_s: 17,
    })), (one) => one.id),
    samples: kept([...Array(Math.round(span / 10)).keys()].map((n) => ({
      at: now - span + n * 10, workers, models: { "model-0": { queued: n % 7, running: 3, p95_s: 2 } },
      busy: n % 30 ? {} : Object.fromEntries([...Array(workers).keys()].map((at) => [`worker-${at}`, 1])),
    })), (one) => one.at),
    events: kept([], (one) => one.at), underWay: [],
  };
  const fleet = new Map([...Array(workers).keys()].map((at) => [`worker-${at}`, { worker: `worker-${at}`, device: "h100", state: "live" }]));
  const canvas = document.createElement("canvas");
  document.body.append(canvas);
  const each = [];
  for (let turn = 0; turn < updates; turn += 1) {
    const began = performance.now();
    const lanes = lanesOf(history, fleet, new Map(), { ...view, now });
    totalsOf(history.samples.list(), view);
    drawLanes(canvas, lanes, view, { top: turn * 300, width: 1100, height: 600, selected: null, paint: colours(document.body) });
    each.push(performance.now() - began);
  }
  canvas.remove();
  return each;
}
