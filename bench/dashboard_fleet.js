async ([workers, models, held, changed, updates]) => {
  const { take } = await import("/static/live.js");
  const worker = (at, turn) => ({
    worker: `worker-${at}`, state: "live", device: "NVIDIA H100", host: `host-${at % 125}`, profile: "h100",
    used_mb: 1000 + turn, total_mb: 80000, jobs: (at + turn) % 4, on_disk: models - held,
    memory: Object.fromEntries([...Array(held).keys()].map((n) => [`model-${(at * 7 + n) % models}`, "hot"])),
  });
  const model = (at, turn) => ({
    name: `model-${at}`, features: ["TextGeneration"], replicas: [], card: {}, workers: {},
    specs: [{ name: "default", engine: "vllm", profile: "h100", launcher: "static", target_requests: 1, min_replicas: 0,
              max_replicas: null, running: 0, desired: 0, ready: 5, starting: 0 }],
    queue: { model: `model-${at}`, queued: (at + turn) % 9, running: turn % 5, oldest_wait_s: turn },
  });
  const measured = async (change) => {
    let began;
    requestAnimationFrame(() => { began = performance.now(); });
    const taken = performance.now();
    change();
    const spent = performance.now() - taken;
    await new Promise((done) => requestAnimationFrame(done));
    document.body.offsetHeight;
    return spent + performance.now() - began;
  };
  const first = await measured(() => take({
    workers: [...Array(workers).keys()].map((at) => worker(at, 0)), models: [...Array(models).keys()].map((at) => model(at, 0)),
  }));
  const each = [];
  for (let turn = 1; turn <= updates; turn += 1) {
    const some = { workers: [...Array(changed).keys()].map((n) => worker((n * 5 + turn) % workers, turn)),
                   models: [...Array(models).keys()].map((at) => model(at, turn)) };
    each.push(await measured(() => take(some)));
  }
  return { first, each, rows: document.querySelectorAll("tbody tr").length };
}
