// The last day on a time axis: lanes of workers with their jobs, loads and evictions, races of specs, failures and
// changes; queue depth and p95 above. It follows the present until somebody pauses, zooms or scrubs.
import { clock, html, moment, seconds, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../base.js";
import { useLive } from "../live.js";
import { fieldsNow, go, setFields } from "../navigate.js";
import { Status, Table } from "../table.js";
import { Chart, RIGHT_PX } from "../timeline/chart.js";
import { LANE_PX, colours, drawLanes, hit } from "../timeline/draw.js";
import { DAY_S, DETAIL_S, History } from "../timeline/history.js";
import { lanesOf, totalsOf } from "../timeline/lanes.js";

const EVERY_MS = 1000;
const SPANS = [[300, "5 minutes"], [1800, "30 minutes"], [3600, "1 hour"], [6 * 3600, "6 hours"], [DAY_S, "24 hours"]];
const MIN_SPAN_S = 5;
const now = () => Date.now() / 1000;

// {span, until, isFollowing}: until counts where it does not follow.
function useView() {
  const given = fieldsNow();
  const [view, setView] = useState({ span: Number(given.span) || 1800, end: Number(given.until) || 0 });
  const [tick, setTick] = useState(now());
  useEffect(() => {
    if (view.end) return undefined;
    const timer = setInterval(() => setTick(now()), EVERY_MS);
    return () => clearInterval(timer);
  }, [view.end]);
  const until = view.end || tick;
  function change(span, end) {
    const wanted = { span: Math.min(Math.max(span, MIN_SPAN_S), DAY_S), end: end && end < now() - 1 ? Math.max(end, now() - DAY_S + 60) : end ? now() : 0 };
    setView(wanted);
    setTick(now());
    setFields({ span: Math.round(wanted.span), until: wanted.end ? Math.round(wanted.end) : "" });
  }
  return [{ from: until - view.span, until, span: view.span, isFollowing: !view.end }, change];
}

function useHistory(view) {
  const history = useRef(null);
  history.current ||= new History();
  const [state, setState] = useState({ version: 0, problem: "" });
  const isBusy = useRef(false);
  useEffect(() => {
    if (isBusy.current) return;
    isBusy.current = true;
    const { from, until } = view;
    history.current.cover(from, until).then(
      () => setState((before) => ({ version: before.version + 1, problem: "" })),
      (error) => setState((before) => ({ ...before, problem: error.message })),
    ).finally(() => { isBusy.current = false; });
  }, [view.from, view.until]);
  return [history.current, state];
}

function useWidth(ref) {
  const [width, setWidth] = useState(800);
  useLayoutEffect(() => {
    const look = () => setWidth(Math.max(ref.current?.clientWidth || 0, 260));
    look();
    const seen = new ResizeObserver(look);
    seen.observe(ref.current);
    return () => seen.disconnect();
  }, []);
  return width;
}

export function Timeline() {
  const { workers, models } = useLive();
  const [view, change] = useView();
  const [history, { version, problem }] = useHistory(view);
  const [text, setText] = useState("");
  const [model, setModel] = useState("");
  const box = useRef(null);
  const width = useWidth(box);
  const lanes = useMemo(() => lanesOf(history, workers, models, { ...view, text, now: now() }),
    [version, view.from, view.until, text, workers.size]);
  const totals = useMemo(() => totalsOf(history.samples.list(), { ...view, model }), [version, view.from, view.until, model]);
  const jobs = history.jobs.list().filter((one) => one.finished_at >= view.from && one.created_at <= view.until).sort((a, b) => b.created_at - a.created_at);
  const middle = (view.from + view.until) / 2;
  const zoom = (factor) => change(view.span * factor, view.isFollowing ? 0 : middle + view.span * factor / 2);
  const move = (part) => change(view.span, view.until + part * view.span);
  const spans = SPANS.some(([span]) => span === view.span) ? SPANS : [[view.span, seconds(view.span)], ...SPANS];
  return html`<h1>Timeline</h1>
    <div class="timeline-tools" role="toolbar" aria-label="What is shown">
      <button type="button" aria-pressed=${!view.isFollowing} onClick=${() => change(view.span, view.isFollowing ? view.until : 0)}>${view.isFollowing ? "Pause" : "Follow"}</button>
      <label for="span">Span</label><select id="span" value=${view.span} onChange=${(event) => change(Number(event.target.value), view.isFollowing ? 0 : view.until)}>
        ${spans.map(([span, name]) => html`<option key=${span} value=${span}>${name}</option>`)}</select>
      <button type="button" class="small" onClick=${() => zoom(0.5)}>Zoom in</button>
      <button type="button" class="small" onClick=${() => zoom(2)}>Zoom out</button>
      <button type="button" class="small" onClick=${() => move(-0.5)}>Earlier</button>
      <button type="button" class="small" onClick=${() => move(0.5)}>Later</button>
      <label for="model-of">Model above</label><select id="model-of" value=${model} onChange=${(event) => setModel(event.target.value)}>
        <option value="">all</option>${[...models.keys()].map((name) => html`<option key=${name} value=${name}>${name}</option>`)}</select>
    </div>
    <p><label for="scrub">Until ${moment(view.until)}</label>
      <input id="scrub" type="range" min="-86400" max="0" step="60" value=${Math.round(view.until - now())} aria-valuetext=${moment(view.until)}
        onInput=${(event) => change(view.span, Number(event.target.value) === 0 ? 0 : now() + Number(event.target.value))} /></p>
    ${problem && html`<p role="alert" class="bad">${problem}</p>`}
    <section aria-label="Queues and lanes"><div ref=${box}></div><${Chart} data=${totals} view=${view} width=${width} zoomTo=${(from, until) => change(until - from, until)} />
    ${lanes.length > 9 && html`<p><label for="filter">Find a lane</label><input id="filter" type="search" value=${text} onInput=${(event) => setText(event.target.value)} /></p>`}
    <${Lanes} lanes=${lanes} view=${view} width=${width - RIGHT_PX} zoom=${zoom} move=${move} />
    <${Legend} span=${view.span} history=${history} />
    </section>
    ${view.span <= DETAIL_S && html`<details><summary>The ${jobs.length} jobs that ended here, as a table</summary>
      <${Table} label="Jobs that ended here" columns=${COLUMNS} rows=${jobs} keyOf=${(one) => one.id} height=${420} empty="No job ended in this time." /></details>`}`;
}

const COLUMNS = [
  { name: "job", cell: (one) => html`<a href=${`/jobs/${encodeURIComponent(one.id)}`}>${one.id}</a>` },
  { name: "model", cell: (one) => one.model },
  { name: "state", cell: (one) => html`<${Status} value=${one.status} />` },
  { name: "accepted", cell: (one) => clock(one.created_at) },
  { name: "took", isNumber: true, cell: (one) => seconds(one.finished_at - one.created_at) },
  { name: "worker", cell: (one) => one.worker || "–" },
];

function Legend({ span, history }) {
  return html`<p class="legend">${span <= DETAIL_S
    ? html`${["queued", "fetching", "loading", "running"].map((name) => html`<span key=${name}><i class=${`swatch ${name}`}></i>${name}</span>`)}
      <span><i class="swatch failed"></i>✚ failed</span><span><i class="swatch load"></i>▲ model loaded</span><span><i class="swatch evict"></i>▼ model evicted</span><span><i class="swatch mark"></i>◆ change</span>`
    : html`<span><i class="swatch running"></i>how busy each worker was; spans of up to 2 hours show single jobs</span>`}
    ${history.jobs.isCut && html`<span class="bad">There were more jobs than are shown: zoom in.</span>`}</p>`;
}

function Lanes({ lanes, view, width, zoom, move }) {
  const box = useRef(null);
  const canvas = useRef(null);
  const [top, setTop] = useState(0);
  const [chosen, setChosen] = useState(null); // {lane, item}
  const height = Math.min(Math.max(lanes.length * LANE_PX, 4 * LANE_PX), Math.round(innerHeight * 0.6));
  const item = chosen && (lanes[chosen.lane]?.bars.find((one) => same(one, chosen.item)) || lanes[chosen.lane]?.marks.find((one) => same(one, chosen.item)));
  useEffect(() => {
    drawLanes(canvas.current, lanes, view, { top, width, height, selected: item, paint: colours(box.current) });
  });
  const place = (event) => {
    const at = canvas.current.getBoundingClientRect();
    return hit(lanes, view, { x: event.clientX - at.left, y: event.clientY - at.top, top, width });
  };
  function open(found) {
    if (found?.item.job) go(`/jobs/${encodeURIComponent(found.item.job)}`);
    else setChosen(found);
  }
  function key(event) {
    const done = { ArrowRight: () => step(1), ArrowLeft: () => step(-1), ArrowDown: () => stepLane(1), ArrowUp: () => stepLane(-1), Enter: () => item && open({ item }), Escape: () => setChosen(null), "+": () => zoom(0.5), "-": () => zoom(2), PageUp: () => move(-0.5), PageDown: () => move(0.5) }[event.key];
    if (!done) return;
    event.preventDefault();
    done();
  }
  const itemsOf = (lane) => [...lane.bars, ...lane.marks].filter((one) => (one.until ?? one.at) >= view.from && (one.from ?? one.at) <= view.until).sort((a, b) => (a.from ?? a.at) - (b.from ?? b.at));
  function step(by) {
    const lane = chosen?.lane ?? 0;
    const items = itemsOf(lanes[lane] || { bars: [], marks: [] });
    const at = items.findIndex((one) => item && same(one, item));
    const next = items[at < 0 ? (by > 0 ? 0 : items.length - 1) : Math.min(Math.max(at + by, 0), items.length - 1)];
    setChosen({ lane, item: next || { text: "" } });
  }
  function stepLane(by) {
    const lane = Math.min(Math.max((chosen?.lane ?? -1) + by, 0), lanes.length - 1);
    setChosen({ lane, item: itemsOf(lanes[lane]).pop() || { text: "" } });
    const wanted = lane * LANE_PX;
    if (wanted < top || wanted + LANE_PX > top + height) box.current.scrollTop = Math.max(wanted - height / 2, 0);
  }
  const told = chosen ? `${lanes[chosen.lane]?.name || ""}: ${item ? sentence(item) : "nothing in this time"}` : "";
  return html`<div class="lanes" id="lanes" ref=${box} style=${{ width: `${width + 2}px` }} tabindex="0" role="group" aria-label="Lanes of workers and specs" aria-describedby="lanes-keys"
      onScroll=${(event) => setTop(event.target.scrollTop)} onKeyDown=${key}>
      <div style=${{ height: `${Math.max(lanes.length * LANE_PX, height)}px` }}>
        <canvas ref=${canvas} aria-hidden="true" onClick=${(event) => open(place(event))}
          onPointerMove=${(event) => { const found = place(event); canvas.current.title = found ? sentence(found.item) : ""; }}
          onWheel=${(event) => { if (event.ctrlKey) { event.preventDefault(); zoom(event.deltaY > 0 ? 1.25 : 0.8); } }}></canvas>
      </div></div>
    <p id="lanes-keys" class="dim">Arrows choose a lane and what lies on it, Enter opens the job, Escape chooses nothing, + and − zoom, Page Up and Page Down move. ${lanes.length} lanes.</p>
    <p id="chosen" role="status">${told}</p>`;
}

const same = (a, b) => (a.job ? a.job === b.job : a.text === b.text && (a.at ?? a.from) === (b.at ?? b.from));

function sentence(item) {
  if (item.at) return `${clock(item.at)}, ${item.text}`;
  const parts = Object.entries(item.parts).filter(([, took]) => took > 0.0005).map(([name, took]) => `${item.job ? name : { loading: "starting", running: "up" }[name] || name} ${seconds(took)}`);
  return `${clock(item.from)}, ${item.text}; ${parts.join(", ")}`;
}
