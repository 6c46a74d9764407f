// The dashboard: the frame around its pages, which page a path means, and the key that is asked for.
import { html, render, useEffect, useRef, useState } from "./base.js";
import { ask } from "./api.js";
import { keepFocus } from "./focus.js";
import { live, useLive, watch } from "./live.js";
import { pathNow, onNavigate } from "./navigate.js";
import { Fleet } from "./pages/fleet.js";
import { Jobs } from "./pages/jobs.js";
import { JobPage } from "./pages/job.js";
import { Timeline } from "./pages/timeline.js";
import { Playground } from "./pages/playground.js";
import { Models, Specs } from "./pages/models.js";
import { Configuration, Keys, Quarantine } from "./pages/operating.js";
import { Schedules } from "./pages/schedules.js";

const ROLES = ["use", "operate", "admin"];
// path, what it is called, the page, the role that it needs.
const PAGES = [
  ["/", "Fleet", Fleet, "operate"],
  ["/timeline", "Timeline", Timeline, "operate"],
  ["/jobs", "Jobs", Jobs, "use"],
  ["/playground", "Playground", Playground, "use"],
  ["/models", "Models", Models, "operate"],
  ["/specs", "Specs", Specs, "operate"],
  ["/schedules", "Schedules", Schedules, "use"],
  ["/quarantine", "Quarantine", Quarantine, "operate"],
  ["/configuration", "Configuration", Configuration, "operate"],
  ["/keys", "Keys", Keys, "admin"],
];
const may = (role) => ROLES.indexOf(live.own?.role || "use") >= ROLES.indexOf(role);

function Header({ path }) {
  const { workers, models, connection, configuration, own } = useLive();
  const here = path.startsWith("/jobs/") ? "/jobs" : path;
  const states = [...workers.values()];
  const up = states.filter((one) => one.state === "live" || one.state === "draining").length;
  const sum = (field) => [...models.values()].reduce((all, model) => all + model.queue[field], 0);
  const state = !may("operate") ? `key ${own?.name || own?.id || ""}`
    : connection === "away" ? "the gateway does not answer; trying again…"
    : connection === "connecting" ? "connecting…"
    : `workers: ${up}${up < states.length ? ` of ${states.length}` : ""}, running: ${sum("running")}, waiting: ${sum("queued")}`;
  return html`
    <a class="skip" href="#main">To the content</a>
    <header>
      <p class="brand"><a href="/">Stoker</a></p>
      <nav aria-label="Pages"><ul>
        ${PAGES.filter(([, , , role]) => may(role)).map(([to, name]) => html`
          <li key=${to}><a href=${to} aria-current=${to === here ? "page" : undefined}>${name}</a></li>`)}
      </ul></nav>
      <p id="state" class=${connection === "away" ? "bad" : "dim"}>${state}</p>
      ${configuration?.failed && html`
        <p id="configuration" class="bad"><a href="/configuration">The configuration was not taken</a></p>`}
      <p class="more"><a href="/schema">API</a></p>
    </header>`;
}

function KeyForm({ entered }) {
  const [said, say] = useState("");
  async function enter(event) {
    event.preventDefault();
    const key = new FormData(event.target).get("key");
    const answer = await fetch("/dashboard/session", { method: "POST", headers: { Authorization: `Bearer ${key}` } });
    if (answer.ok) entered();
    else say("This key is not valid. `stoker keys create NAME --role operate` makes one.");
  }
  return html`
    <main id="main" tabindex="-1" class="narrow">
      <h1>API key</h1>
      <form id="key-form" onSubmit=${enter}>
        <label for="key">API key</label>
        <input id="key" name="key" type="password" autocomplete="current-password" required />
        <button type="submit">Enter</button>
        <p role="status" class="bad">${said}</p>
      </form>
    </main>`;
}

function Page({ path, isEntered }) {
  const main = useRef(null);
  const isFirst = useRef(!isEntered); // of a key that was just given the form had the focus
  const job = path.startsWith("/jobs/") ? decodeURIComponent(path.slice(6)) : "";
  const [, name, Content, role] = PAGES.find(([to]) => to === (job ? "/jobs" : path)) || PAGES[0];
  useEffect(() => {
    document.title = `${job ? `Job ${job}` : name} – Stoker`;
    if (!isFirst.current) main.current?.focus(); // a screen reader begins to read here
    isFirst.current = false;
  }, [path]);
  useEffect(() => keepFocus(main.current), []);
  const content = !may(role)
    ? html`<h1>${name}</h1><p>This page needs a key of the role ${role}: <code>stoker keys create NAME --role ${role}</code>.</p>`
    : job ? html`<${JobPage} key=${job} id=${job} />` : html`<${Content} />`;
  return html`<main id="main" tabindex="-1" ref=${main}>${content}</main>`;
}

function App() {
  const [path, setPath] = useState(pathNow());
  const [state, setState] = useState("asking");
  const isEntered = useRef(false);
  useLive();
  async function begin() {
    try {
      live.own = await ask("/v1/keys/self");
    } catch (error) {
      setState(error.status === 401 ? "key" : error.message);
      if (error.status !== 401) setTimeout(begin, 1000);
      return;
    }
    if (may("operate")) watch();
    setState("in");
  }
  useEffect(() => { begin(); return onNavigate(setPath); }, []);
  if (state === "key") return html`<${KeyForm} entered=${() => { isEntered.current = true; begin(); }} />`;
  if (state !== "in") return html`<main id="main"><h1>Stoker</h1><p role="status">${state === "asking" ? "connecting…" : state}</p></main>`;
  const shown = path === "/" && !may("operate") ? "/playground" : path;
  return html`<${Header} path=${shown} /><${Page} path=${shown} isEntered=${isEntered.current} />`;
}

render(html`<${App} />`, document.getElementById("root"));
