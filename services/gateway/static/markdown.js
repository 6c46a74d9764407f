// Markdown as elements: marked reads it, and what it found is written element by element. No markup of a model is
// ever taken as markup: HTML in a text is shown as text, pictures are links, and links go nowhere but to http.
import { html, useMemo } from "./base.js";
import { lexer } from "./vendor/marked.js";

const isWeb = (href) => /^https?:\/\//i.test(href || "");
const ENTITIES = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'" };
const plain = (text) => text.replace(/&(?:amp|lt|gt|quot|#39);/g, (one) => ENTITIES[one]);

function link(token, content) {
  return isWeb(token.href) ? html`<a href=${token.href} rel="noreferrer noopener" target="_blank">${content}</a>` : html`<span>${content}</span>`;
}

function cells(row, tag) {
  return row.map((cell, at) => (tag === "th"
    ? html`<th key=${at} scope="col">${all(cell.tokens)}</th>` : html`<td key=${at}>${all(cell.tokens)}</td>`));
}

const WRITTEN = {
  space: () => null,
  hr: () => html`<hr />`,
  br: () => html`<br />`,
  paragraph: (token) => html`<p>${all(token.tokens)}</p>`,
  heading: (token) => html`<p class="heading" role="heading" aria-level=${Math.min(token.depth + 2, 6)}>${all(token.tokens)}</p>`,
  blockquote: (token) => html`<blockquote>${all(token.tokens)}</blockquote>`,
  code: (token) => html`<pre tabindex="0"><code>${token.text}</code></pre>`,
  codespan: (token) => html`<code>${plain(token.text)}</code>`,
  strong: (token) => html`<strong>${all(token.tokens)}</strong>`,
  em: (token) => html`<em>${all(token.tokens)}</em>`,
  del: (token) => html`<del>${all(token.tokens)}</del>`,
  link: (token) => link(token, all(token.tokens)),
  image: (token) => link(token, token.text || token.href),
  list: (token) => (token.ordered ? html`<ol start=${token.start || 1}>${items(token)}</ol>` : html`<ul>${items(token)}</ul>`),
  table: (token) => html`<div class="scroll" tabindex="0" role="region" aria-label="A table"><table>
    <thead><tr>${cells(token.header, "th")}</tr></thead>
    <tbody>${token.rows.map((row, at) => html`<tr key=${at}>${cells(row, "td")}</tr>`)}</tbody></table></div>`,
  checkbox: (token) => (token.checked ? "☑ " : "☐ "),
  html: (token) => token.raw,
  text: (token) => (token.tokens ? all(token.tokens) : plain(token.text)),
  escape: (token) => plain(token.text),
};

const items = (token) => token.items.map((item, at) => html`<li key=${at}>${all(item.tokens)}</li>`);
const all = (tokens = []) => tokens.map((token) => (WRITTEN[token.type] ? WRITTEN[token.type](token) : token.raw));

export function Markdown({ text }) {
  const tokens = useMemo(() => lexer(text || "", { gfm: true }), [text]);
  return html`<div class="markdown">${all(tokens)}</div>`;
}
