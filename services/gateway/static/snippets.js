// The same request as code: curl, Python, Node. For pictures and functions Python and Node ask over HTTP.
import { html, useState } from "./base.js";

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
// A value as Python writes it.
function python(value, depth = 0) {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const pad = "    ".repeat(depth + 1), end = "    ".repeat(depth);
  const parts = Array.isArray(value) ? value.map((one) => python(one, depth + 1))
    : Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${python(one, depth + 1)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  return parts.length ? `${open}\n${parts.map((one) => pad + one).join(",\n")},\n${end}${close}` : open + close;
}

function curl({ path, body, form }) {
  const auth = ` \\\n  -H "Authorization: Bearer $STOKER_API_KEY"`;
  if (form) return `curl ${location.origin}${path}${auth} \\\n${Object.entries(form).map(([name, value]) => `  -F ${quoted(`${name}=${value}`)}`).join(" \\\n")}`;
  return `curl ${location.origin}${path}${auth} \\\n  -H 'Content-Type: application/json' \\\n  -d ${quoted(JSON.stringify(body, null, 2))}`;
}

function inPython({ path, body, form }) {
  if (path === "/v1/chat/completions") {
    return `import os\nfrom openai import OpenAI\n\nclient = OpenAI(base_url="${location.origin}/v1", api_key=os.environ.get("STOKER_API_KEY", "none"))\nanswer = client.chat.completions.create(**${python({ ...body, stream: false })})\nprint(answer.choices[0].message.content)`;
  }
  const headers = `headers={"Authorization": "Bearer " + os.environ.get("STOKER_API_KEY", "none")}`;
  const files = form && Object.entries(form).filter(([, value]) => String(value).startsWith("@"));
  const fields = form && Object.fromEntries(Object.entries(form).filter(([, value]) => !String(value).startsWith("@")));
  const sent = form ? `data=${python(fields)},\n    files={${files.map(([name, value]) => `"${name}": open("${value.slice(1)}", "rb")`).join(", ")}}` : `json=${python(body)}`;
  return `import os\nimport httpx\n\nanswer = httpx.post(\n    "${location.origin}${path}",\n    ${headers},\n    ${sent},\n    timeout=600,\n)\nprint(answer.raise_for_status().json())`;
}

function inNode({ path, body, form }) {
  const auth = `Authorization: \`Bearer \${process.env.STOKER_API_KEY ?? "none"}\``;
  if (form) {
    const lines = Object.entries(form).map(([name, value]) => (String(value).startsWith("@")
      ? `form.append("${name}", await openAsBlob("${value.slice(1)}"), "${value.slice(1)}");` : `form.append("${name}", ${JSON.stringify(String(value))});`));
    return `import { openAsBlob } from "node:fs"\n\nconst form = new FormData();\n${lines.join("\n")}\nconst answer = await fetch("${location.origin}${path}", {\n  method: "POST", body: form, headers: { ${auth} },\n});\nconsole.log(await answer.json());`;
  }
  return `const answer = await fetch("${location.origin}${path}", {\n  method: "POST",\n  headers: { "Content-Type": "application/json", ${auth} },\n  body: JSON.stringify(${JSON.stringify(body, null, 2).replaceAll("\n", "\n  ")}),\n});\nconsole.log(await answer.json());`;
}

const LANGUAGES = { curl, Python: inPython, Node: inNode };

export function Snippets({ call }) {
  const [language, setLanguage] = useState("curl");
  const [said, say] = useState("");
  const text = LANGUAGES[language](call);
  async function copy() {
    try {
      await navigator.clipboard.writeText(text);
      say("copied");
    } catch {
      say("the browser does not allow it; select the text");
    }
  }
  return html`<details class="snippets"><summary>The same as code</summary>
    <p><label for="language">Language</label> <select id="language" value=${language} onChange=${(event) => { setLanguage(event.target.value); say(""); }}>
      ${Object.keys(LANGUAGES).map((one) => html`<option key=${one} value=${one}>${one}</option>`)}</select>
      <button type="button" class="small" onClick=${copy}>Copy</button> <span role="status">${said}</span></p>
    <pre tabindex="0">${text}</pre></details>`;
}
