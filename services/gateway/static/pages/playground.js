// Trying models and functions: chat, pictures, and forms made from the schemas of functions.
import { html, useEffect, useState } from "../base.js";
import { ask } from "../api.js";
import { useLive } from "../live.js";
import { fieldsNow, setFields } from "../navigate.js";
import { Chat } from "../play/chat.js";
import { Draw } from "../play/draw.js";
import { Call } from "../play/call.js";

const EVERY_MS = 5000;

function kindOf(card) {
  if (card.features.includes("TextGeneration")) return "chat";
  if (card.features.includes("ImageGeneration")) return "picture";
  return "";
}

async function choices() {
  const [models, functions] = await Promise.all([ask("/v1/models"), ask("/v1/functions")]);
  return [
    ...models.data.map((card) => ({ name: card.id, kind: kindOf(card), card })).filter((one) => one.kind),
    ...functions.functions.map((card) => ({ name: card.name, kind: "function", card })),
  ];
}

function useChoices() {
  const [found, setFound] = useState({ list: [], problem: "", hasAsked: false });
  async function look() {
    try {
      const list = await choices();
      setFound((before) => (JSON.stringify(before.list) === JSON.stringify(list) && before.hasAsked ? before : { list, problem: "", hasAsked: true }));
    } catch (error) {
      setFound((before) => ({ ...before, problem: error.message, hasAsked: true }));
    }
  }
  useEffect(() => {
    look();
    const timer = setInterval(() => { if (!document.hidden) look(); }, EVERY_MS);
    return () => clearInterval(timer);
  }, []);
  return found;
}

function Modes() {
  const [modes, setModes] = useState([]);
  const [mode, setMode] = useState("");
  const [said, say] = useState("");
  useEffect(() => {
    ask("/api/modes").then((found) => {
      const names = Object.keys(found.modes || {});
      setModes(names);
      setMode(found.current_mode || names[0] || "");
    }).catch(() => {});
  }, []);
  if (!modes.length) return null;
  async function change(event) {
    event.preventDefault();
    try {
      const answer = await ask("/api/modes/switch", { method: "POST", body: { mode } });
      say(answer.message || answer.status || "switched");
    } catch (error) {
      say(error.message);
    }
  }
  return html`<section aria-labelledby="h-modes"><h2 id="h-modes">Modes of pictures</h2>
    <form id="modes" onSubmit=${change}><p><label for="mode">Mode</label>
      <select id="mode" value=${mode} onChange=${(event) => setMode(event.target.value)}>
        ${modes.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}</select>
      <button type="submit">Switch</button> <span role="status">${said}</span></p></form></section>`;
}

const GROUPS = [["chat", "Text"], ["picture", "Pictures"], ["function", "Functions"]];

export function Playground() {
  const { own } = useLive();
  const { list, problem, hasAsked } = useChoices();
  const [name, setName] = useState(fieldsNow().model || "");
  const chosen = list.find((one) => one.name === name) || list[0];
  function choose(event) {
    setName(event.target.value);
    setFields({ model: event.target.value });
  }
  const Play = { chat: Chat, picture: Draw, function: Call }[chosen?.kind];
  return html`<h1>Playground</h1>
    ${problem && html`<p role="alert" class="bad">${problem}</p>`}
    ${!list.length && html`<p class="empty">${hasAsked ? html`There is nothing to try: no model writes text or draws, and there are no functions. Add one below <code>models:</code> in the configuration.` : "Looking…"}</p>`}
    ${list.length > 0 && html`<p><label for="model">Model</label>
      <select id="model" value=${chosen.name} onChange=${choose}>
        ${GROUPS.map(([kind, title]) => list.some((one) => one.kind === kind) && html`<optgroup key=${kind} label=${title}>
          ${list.filter((one) => one.kind === kind).map((one) => html`<option key=${one.name} value=${one.name}>${one.name}</option>`)}</optgroup>`)}
      </select></p>
      <${Play} key=${`${chosen.kind} ${chosen.name}`} model=${chosen.name} card=${chosen.card} />`}
    ${own?.role !== "use" && html`<${Modes} />`}`;
}
