// Functions: a form made from the schema of their input; what they stream, return and save.
import { html, useState } from "../base.js";
import { eventsOf, messageOf, request as send } from "../api.js";
import { SchemaFields, valuesOf } from "../schema-form.js";
import { Snippets } from "../snippets.js";
import { Result } from "../pages/result.js";
import { Buttons, Told, timesOf, useRequest } from "./told.js";

export function Call({ model, card }) {
  const [values, setValues] = useState({});
  const [made, setMade] = useState(null);
  const [lines, setLines] = useState("");
  const request = useRequest();
  const path = `/v1/functions/${encodeURIComponent(model)}`;

  let body = {};
  try {
    body = valuesOf(card.input_schema, values);
  } catch { /* a field is being written; the call says what is wrong */ }

  async function call(event) {
    event.preventDefault();
    setMade(null);
    setLines("");
    await request.run(async ({ signal, say, named, began }) => {
      const answer = await send(path, { method: "POST", body: valuesOf(card.input_schema, values), signal, headers: { Accept: "text/event-stream" } });
      named(answer.headers.get("x-job-id"));
      let text = "", first = 0;
      for await (const { comment, event: kind, data } of eventsOf(answer)) {
        if (comment) say(comment);
        if (kind === "error") throw new Error(messageOf(data));
        if (kind === "progress") say(`step ${data.step} of ${data.steps}`);
        if (kind === "delta") {
          first ||= (performance.now() - began) / 1000;
          text += `${typeof data === "string" ? data : JSON.stringify(data)}\n`;
          setLines(text);
        }
        if (kind === "completed") setMade(data);
      }
      return timesOf(began, first);
    });
  }
  return html`
    ${card.description && html`<p>${card.description}</p>`}
    <form id="play" onSubmit=${call}>
      <${SchemaFields} schema=${card.input_schema} values=${values} set=${(name, value) => setValues((before) => ({ ...before, [name]: value }))} />
      <${Buttons} request=${request} text="Call" />
    </form>
    <${Told} request=${request} />
    ${lines && html`<pre tabindex="0">${lines}</pre>`}
    ${made && html`<section aria-labelledby="h-made"><h2 id="h-made">Result</h2><${Result} job=${made} /></section>`}
    <${Snippets} call=${{ path, body }} />`;
}
