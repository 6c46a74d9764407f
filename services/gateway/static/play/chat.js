// Chat: turns, parameters, pictures that are sent along, answers as Markdown while they come.
import { html, useEffect, useRef, useState } from "../base.js";
import { eventsOf, messageOf, request as send } from "../api.js";
import { Markdown } from "../markdown.js";
import { Snippets } from "../snippets.js";
import { Buttons, Numbers, Told, asDataUrl, numbersOf, timesOf, useRequest } from "./told.js";

const FIELDS = [
  ["temperature", "Temperature", { min: 0, max: 2, step: 0.1 }], ["top_p", "Top p", { min: 0, max: 1, step: 0.05 }],
  ["max_tokens", "Longest answer, in tokens", { min: 1, step: 1 }], ["seed", "Seed", { min: 0, step: 1 }],
  ["presence_penalty", "Presence penalty", { min: -2, max: 2, step: 0.1 }], ["frequency_penalty", "Frequency penalty", { min: -2, max: 2, step: 0.1 }],
];

const textOf = (content) => (typeof content === "string" ? content : content.find((part) => part.type === "text")?.text || "");

function Turn({ turn }) {
  return html`<li class=${`turn ${turn.role}`}><strong>${{ user: "You", assistant: "Model", system: "System" }[turn.role]}</strong>
    ${turn.reasoning && html`<details><summary>What it thought</summary><${Markdown} text=${turn.reasoning} /></details>`}
    ${turn.role === "user" ? html`<p class="pre">${textOf(turn.content)}</p>` : html`<${Markdown} text=${textOf(turn.content)} />`}
    ${turn.picture && html`<img src=${turn.picture} alt="the picture that was sent" class="thumb" />`}</li>`;
}

export function Chat({ model, card }) {
  const [turns, setTurns] = useState([]);
  const [values, setValues] = useState({});
  const [system, setSystem] = useState("");
  const [prompt, setPrompt] = useState("");
  const [picture, setPicture] = useState("");
  const [answer, setAnswer] = useState(null);
  const end = useRef(null);
  const request = useRequest();
  const seesPictures = (card.capabilities?.abilities || []).some((one) => /vision|picture|image/i.test(one)) || card.features.some((one) => /Vision|Image/.test(one));
  useEffect(() => { end.current?.scrollIntoView({ block: "nearest" }); }, [turns.length, answer]);

  const messagesOf = (asked) => [
    ...(system.trim() ? [{ role: "system", content: system }] : []),
    ...turns.map(({ role, content }) => ({ role, content })), ...asked,
  ];
  const content = picture ? [{ type: "text", text: prompt }, { type: "image_url", image_url: { url: picture } }] : prompt;
  const bodyOf = (asked) => ({ model, messages: messagesOf(asked), ...numbersOf(FIELDS, values), stream: true });

  async function ask(event) {
    event.preventDefault();
    if (!prompt.trim()) return;
    const asked = { role: "user", content, picture };
    const body = bodyOf([{ role: "user", content }]);
    setTurns([...turns, asked]);
    setPrompt("");
    setPicture("");
    await request.run(async ({ signal, say, named, began }) => {
      let text = "", reasoning = "", first = 0, why = "", tokens = 0, lastDrawn = 0;
      const draw = () => { lastDrawn = performance.now(); setAnswer({ role: "assistant", content: text, reasoning }); };
      try {
        const answered = await send("/v1/chat/completions", { method: "POST", body: { ...body, stream_options: { include_usage: true } }, signal });
        named(answered.headers.get("x-job-id"));
        for await (const { comment, data } of eventsOf(answered)) {
          if (comment) say(comment.replace("eta=unknown", "no estimate yet").replace("position=", "place "));
          if (!data) continue;
          if (data.error) throw new Error(messageOf(data));
          const choice = data.choices?.[0];
          text += choice?.delta?.content || "";
          reasoning += choice?.delta?.reasoning_content || "";
          why = choice?.finish_reason || why;
          tokens = data.usage?.completion_tokens || tokens;
          if (!first && (text || reasoning)) { first = (performance.now() - began) / 1000; say("writing…"); }
          if (performance.now() - lastDrawn > 30) draw();
        }
      } finally {
        setAnswer(null);
        if (text || reasoning) setTurns((before) => [...before, { role: "assistant", content: text, reasoning }]);
      }
      const rate = tokens && first ? `, ${tokens} tokens, ${(tokens / Math.max((performance.now() - began) / 1000 - first, 0.001)).toFixed(0)} tokens/s` : "";
      return `${timesOf(began, first)}${rate}${why === "length" ? ", cut off by the longest answer" : ""}`;
    });
  }
  const set = (name, value) => setValues({ ...values, [name]: value });
  return html`
    <ol id="answer" class="turns" aria-label="The conversation">
      ${turns.map((turn, at) => html`<${Turn} key=${at} turn=${turn} />`)}
      ${answer && html`<${Turn} key="answer" turn=${answer} />`}
    </ol><div ref=${end}></div>
    <form id="play" onSubmit=${ask}>
      <label for="prompt">Prompt</label>
      <textarea id="prompt" rows="3" required value=${prompt} onInput=${(event) => setPrompt(event.target.value)}
        onKeyDown=${(event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.target.form.requestSubmit(); }}></textarea>
      ${seesPictures && html`<p><label for="picture-in">Picture</label>
        <input id="picture-in" type="file" accept="image/*" onChange=${async (event) => setPicture(event.target.files[0] ? await asDataUrl(event.target.files[0]) : "")} />
        ${picture && html`<img src=${picture} alt="the picture that will be sent" class="thumb" />`}</p>`}
      <${Buttons} request=${request} />
      ${turns.length > 0 && html`<p><button type="button" class="small" onClick=${() => setTurns([])}>Begin anew</button></p>`}
      <details><summary>Parameters</summary>
        <p><label for="system">System prompt</label><textarea id="system" rows="2" value=${system} onInput=${(event) => setSystem(event.target.value)}></textarea></p>
        <${Numbers} fields=${FIELDS} values=${values} set=${set} /></details>
    </form>
    <${Told} request=${request} />
    <${Snippets} call=${{ path: "/v1/chat/completions", body: bodyOf(prompt.trim() ? [{ role: "user", content: prompt }] : turns.length ? [] : [{ role: "user", content: "…" }]) }} />`;
}
