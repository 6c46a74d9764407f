// Jobs: a table that is searched by text, model, state, key and time. What is asked stands in the address.
import { html, moment, seconds, shortId, useEffect, useRef, useState } from "../base.js";
import { ask, query } from "../api.js";
import { live } from "../live.js";
import { fieldsNow, setFields } from "../navigate.js";
import { Status, Table } from "../table.js";

const EVERY_MS = 1000;
const PAGE = 50;
const STATES = ["queued", "assigned", "running", "completed", "failed", "cancelled", "expired"];
const SINCE = [["", "any time"], ["300", "the last 5 minutes"], ["3600", "the last hour"], ["86400", "the last day"]];

const took = (job) => (job.finished_at ? seconds(job.finished_at - job.created_at) : seconds(Date.now() / 1000 - job.created_at));
const COLUMNS = [
  { name: "job", cell: (job) => html`<a href=${`/jobs/${encodeURIComponent(job.id)}`} title=${job.id}>${shortId(job.id)}</a>` },
  { name: "model", cell: (job) => job.model },
  { name: "state", cell: (job) => html`<${Status} value=${job.status} />` },
  { name: "accepted", cell: (job) => moment(job.created_at) },
  { name: "took", isNumber: true, cell: took },
  { name: "worker", cell: (job) => job.worker || "–" },
  { name: "key", cell: (job) => job.key || "–" },
];

export function Jobs() {
  const [asked, setAsked] = useState(() => ({ search: "", model: "", status: "", key: "", last: "", ...fieldsNow() }));
  const [found, setFound] = useState({ jobs: [], next_cursor: "" });
  const [problem, setProblem] = useState("");
  const [pages, setPages] = useState(1);
  const [hasAsked, setHasAsked] = useState(false);
  const newest = useRef(0);

  async function look() {
    const turn = ++newest.current;
    const { last, ...fields } = asked;
    const since = last ? Math.floor(Date.now() / 1000 - Number(last)) : 0;
    try {
      let jobs = [], cursor = "";
      for (let page = 0; page < pages; page += 1) {
        const answer = await ask(query("/v1/jobs", { ...fields, since, limit: PAGE, cursor }));
        jobs = [...jobs, ...answer.jobs];
        cursor = answer.next_cursor;
        if (!cursor) break;
      }
      if (turn !== newest.current) return; // asked for something else meanwhile
      setFound({ jobs, next_cursor: cursor });
      setProblem("");
    } catch (error) {
      if (turn === newest.current) setProblem(error.message);
    }
    setHasAsked(true);
  }

  useEffect(() => {
    look();
    const timer = setInterval(() => { if (!document.hidden) look(); }, EVERY_MS * Math.min(pages, 5));
    return () => { clearInterval(timer); newest.current += 1; };
  }, [asked, pages]);

  function set(name, value) {
    const next = { ...asked, [name]: value };
    setAsked(next);
    setPages(1);
    setFields(next);
  }
  const field = (name) => ({ id: `find-${name}`, value: asked[name], onInput: (event) => set(name, event.target.value) });
  const isFiltered = Object.values(asked).some(Boolean);
  return html`
    <h1>Jobs</h1>
    <form class="filters" role="search" aria-label="Find jobs" onSubmit=${(event) => event.preventDefault()}>
      <p><label for="find-search">Id or model</label><input type="search" ...${field("search")} /></p>
      <p><label for="find-model">Model</label><input list="models" ...${field("model")} />
        <datalist id="models">${[...live.models.keys()].map((name) => html`<option key=${name} value=${name} />`)}</datalist></p>
      <p><label for="find-status">State</label><select ...${field("status")}>
        <option value="">any</option>${STATES.map((one) => html`<option key=${one} value=${one}>${one}</option>`)}</select></p>
      <p><label for="find-key">Key</label><input ...${field("key")} placeholder="id of a key" /></p>
      <p><label for="find-last">Accepted in</label><select ...${field("last")}>
        ${SINCE.map(([value, name]) => html`<option key=${value} value=${value}>${name}</option>`)}</select></p>
    </form>
    ${problem && html`<p role="alert" class="bad">${problem}</p>`}
    <${Table} label="Jobs, newest first" columns=${COLUMNS} rows=${found.jobs} keyOf=${(job) => job.id} height=${640}
      empty=${!hasAsked ? "Looking…" : isFiltered ? "No job matches; jobs that ended are listed for an hour. Older ones are in the timeline."
        : html`No job yet. Send one in the <a href="/playground">playground</a>, or with <code>stoker run MODEL "hello"</code>.`} />
    ${found.next_cursor && html`<p><button type="button" onClick=${() => setPages(pages + 1)}>More</button></p>`}`;
}
