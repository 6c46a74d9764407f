// Pictures: previews while they are drawn, from a picture, with a mask, from a seed.
import { html, useState } from "../base.js";
import { eventsOf, messageOf, request as send } from "../api.js";
import { Snippets } from "../snippets.js";
import { MaskPainter } from "./mask.js";
import { Buttons, Numbers, Told, asDataUrl, numbersOf, timesOf, useRequest } from "./told.js";

const FIELDS = [
  ["num_inference_steps", "Steps", { min: 1, max: 200, step: 1 }], ["guidance_scale", "Guidance", { min: 0, max: 30, step: 0.5 }],
  ["seed", "Seed", { min: 0, step: 1 }], ["n", "Pictures", { min: 1, max: 8, step: 1 }],
];
const STRENGTH = [["strength", "Strength (0 keeps the picture)", { min: 0, max: 1, step: 0.05 }]];
const PREVIEWS = 3;

export function Draw({ model }) {
  const [prompt, setPrompt] = useState("");
  const [without, setWithout] = useState("");
  const [size, setSize] = useState("");
  const [values, setValues] = useState({});
  const [from, setFrom] = useState(null);
  const [fromUrl, setFromUrl] = useState("");
  const [mask, setMask] = useState(null);
  const [pictures, setPictures] = useState([]);
  const request = useRequest();
  const set = (name, value) => setValues({ ...values, [name]: value });
  const fields = {
    model, prompt, ...(without && { negative_prompt: without }), ...(size && { size }), ...numbersOf(FIELDS, values),
    ...(from && numbersOf(STRENGTH, values)),
  };

  function bodyNow() {
    if (!from) return { ...fields, stream: true, partial_images: PREVIEWS };
    const form = new FormData();
    for (const [name, value] of Object.entries({ ...fields, stream: "true", partial_images: PREVIEWS })) form.append(name, String(value));
    form.append("image", from);
    if (mask) form.append("mask", mask, "mask.png");
    return form;
  }

  async function draw(event) {
    event.preventDefault();
    await request.run(async ({ signal, say, named, began }) => {
      let first = 0;
      const done = [];
      const answer = await send(from ? "/v1/images/edits" : "/v1/images/generations", { method: "POST", body: bodyNow(), signal });
      named(answer.headers.get("x-job-id"));
      for await (const { comment, data } of eventsOf(answer)) {
        if (comment) say(comment.replace("eta=unknown", "no estimate yet").replace("position=", "place "));
        if (!data) continue;
        if (data.error) throw new Error(messageOf(data));
        first ||= (performance.now() - began) / 1000;
        const src = `data:image/${data.output_format || "png"};base64,${data.b64_json}`;
        const isDone = data.type.endsWith("completed");
        if (isDone) done.push({ src, seed: data.seed, alt: prompt });
        say(isDone ? "drawn" : "drawing…");
        setPictures(isDone ? [...done] : [...done, { src, alt: `preview of ${prompt}` }]);
      }
      return timesOf(began, first);
    });
  }

  async function choose(event) {
    const file = event.target.files[0] || null;
    setFrom(file);
    setMask(null);
    setFromUrl(file ? await asDataUrl(file) : "");
  }
  const call = from
    ? { path: "/v1/images/edits", form: { ...fields, image: `@${from.name}`, ...(mask && { mask: "@mask.png" }) } }
    : { path: "/v1/images/generations", body: { ...fields, response_format: "url" } };
  return html`
    <form id="play" onSubmit=${draw}>
      <label for="prompt">Prompt</label>
      <textarea id="prompt" rows="2" required value=${prompt} onInput=${(event) => setPrompt(event.target.value)}></textarea>
      <${Buttons} request=${request} text="Draw" />
      <details><summary>Parameters</summary>
        <p><label for="without">Negative prompt</label><input id="without" value=${without} onInput=${(event) => setWithout(event.target.value)} /></p>
        <p><label for="size">Size</label><input id="size" placeholder="the model's" pattern="[0-9]+x[0-9]+" value=${size} onInput=${(event) => setSize(event.target.value)} /></p>
        <${Numbers} fields=${FIELDS} values=${values} set=${set} /></details>
      <details><summary>From a picture</summary>
        <p><label for="from">Picture</label><input id="from" type="file" accept="image/*" onChange=${choose} /></p>
        ${from && html`<${Numbers} fields=${STRENGTH} values=${values} set=${set} />
          <${MaskPainter} url=${fromUrl} setMask=${setMask} />`}</details>
    </form>
    <${Told} request=${request} />
    <ul class="pictures">${pictures.map((one, at) => html`
      <li key=${at}><img id=${at === 0 ? "picture" : undefined} src=${one.src} alt=${one.alt} />
        ${one.seed != null && html`<span class="dim">seed ${one.seed} <button type="button" class="small" onClick=${() => set("seed", String(one.seed))}>Use it again</button></span>`}
        ${!one.alt.startsWith("preview of") && html`<a href=${one.src} download="picture.png">Download<span class="hidden"> picture ${at + 1}</span></a>`}</li>`)}</ul>
    <${Snippets} call=${call} />`;
}
