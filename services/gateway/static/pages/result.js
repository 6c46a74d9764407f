// A result as people look at it: text as Markdown, pictures as pictures, everything else as JSON.
import { html } from "../base.js";
import { Markdown } from "../markdown.js";

function Files({ value }) {
  const urls = [...new Set(JSON.stringify(value).match(/\/v1\/jobs\/[^"\\]+\/files\/\d+/g) || [])];
  return urls.length > 0 && html`<ul>${urls.map((url) => html`<li key=${url}><a href=${url} download>${url.split("/").pop()}: download</a></li>`)}</ul>`;
}

export function Result({ job }) {
  const { result } = job;
  if (result.images) {
    return html`<ul class="pictures">${result.images.map((one, at) => html`
      <li key=${one.url}><a href=${one.url} download=${`${job.id}-${at}.png`}><img src=${one.url} alt=${`picture ${at + 1} of ${result.images.length}`} width=${one.width} height=${one.height} /></a>
        <span class="dim">${one.width} × ${one.height}, seed ${one.seed}</span></li>`)}</ul>`;
  }
  if (typeof result.text === "string" && (result.usage || Object.keys(result).length === 1)) { // others are functions'
    const { usage } = result;
    return html`<${Markdown} text=${result.text} />
      ${usage && html`<p class="dim">${usage.prompt_tokens ?? "?"} tokens in, ${usage.completion_tokens ?? "?"} out${result.finish_reason ? `; ended by ${result.finish_reason}` : ""}</p>`}`;
  }
  return html`<pre tabindex="0">${JSON.stringify(result, null, 2)}</pre><${Files} value=${result} />`;
}
