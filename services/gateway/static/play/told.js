// What a request took and cost, and which job it was: told below every answer of the playground.
import { html, money, seconds, useEffect, useRef, useState } from "../base.js";
import { ask } from "../api.js";
import { live } from "../live.js";

export function costOf(job) {
  const spec = live.models.get(job.model)?.specs.find((one) => one.name === job.spec);
  const timings = job.timings || job;
  return spec?.price_per_hour ? ((timings.run_s || 0) + (timings.load_s || 0)) * spec.price_per_hour / 3600 : null;
}

// One request at a time. run(work): work is given a signal and `say`, and returns what is told at the end.
export function useRequest() {
  const [state, setState] = useState({ isRunning: false, said: "", isBad: false, job: "" });
  const underWay = useRef(null);
  useEffect(() => () => underWay.current?.abort(), []);
  const say = (said) => setState((before) => ({ ...before, said }));
  const named = (job) => setState((before) => ({ ...before, job: (job || "").split(",")[0] }));
  async function run(work) {
    underWay.current?.abort();
    const own = underWay.current = new AbortController();
    setState({ isRunning: true, said: "sent…", isBad: false, job: "" });
    const began = performance.now();
    let said, isBad = false;
    try {
      said = await work({ signal: own.signal, say, named, began });
    } catch (error) {
      if (underWay.current !== own) return;
      isBad = error.name !== "AbortError";
      said = isBad ? error.message : "cancelled";
    }
    if (underWay.current === own) setState((before) => ({ ...before, isRunning: false, said, isBad }));
  }
  return { ...state, run, cancel: () => underWay.current?.abort() };
}

export const timesOf = (began, first) => {
  const all = (performance.now() - began) / 1000;
  return `${first ? `first after ${seconds(first)}, ` : ""}done after ${seconds(all)}`;
};

export function Told({ request }) {
  const { job, isRunning, said, isBad } = request;
  const [more, setMore] = useState("");
  useEffect(() => {
    setMore("");
    if (isRunning || !job) return;
    ask(`/v1/jobs/${encodeURIComponent(job)}`).then((found) => {
      const cost = costOf(found);
      const { queued_s: queued, load_s: load, run_s: run } = found.timings || {};
      setMore(`queued ${seconds(queued || 0)}, loading ${seconds(load || 0)}, running ${seconds(run || 0)}${found.worker ? ` on ${found.worker}` : ""}${cost == null ? "" : `, cost ${money(cost)}`}`);
    }).catch(() => {});
  }, [job, isRunning]);
  return html`<p id="told" role="status" class=${isBad ? "bad" : "dim"}>${said}</p>
    ${job && html`<p class="dim"><a href=${`/jobs/${encodeURIComponent(job)}`}>The job</a>${more ? `: ${more}` : ""}</p>`}`;
}

// Not `disabled`: a button that is disabled while it has the focus loses it.
export function Buttons({ request, text = "Send" }) {
  const stop = (event) => { if (request.isRunning) event.preventDefault(); };
  return html`<p class="actions"><button id="send" type="submit" aria-disabled=${request.isRunning ? "true" : "false"} onClick=${stop}>${text}</button>
    <button id="cancel" type="button" aria-disabled=${request.isRunning ? "false" : "true"} onClick=${request.cancel}>Cancel</button></p>`;
}

export const asDataUrl = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(file);
});

// Fields of numbers: [name, label, {min, max, step}]; what is empty is the model's own.
export function Numbers({ fields, values, set }) {
  return html`<div class="fields">${fields.map(([name, label, range = {}]) => html`
    <p key=${name}><label for=${`p-${name}`}>${label}</label>
      <input id=${`p-${name}`} type="number" step="any" ...${range} placeholder="the model's" value=${values[name] ?? ""} onInput=${(event) => set(name, event.target.value)} /></p>`)}</div>`;
}

export const numbersOf = (fields, values) => Object.fromEntries(
  fields.filter(([name]) => (values[name] ?? "") !== "").map(([name]) => [name, Number(values[name])]));
