// Opens a YAML file in yaml-language-server as an editor does, over stdio: what it finds wrong, and what it offers
// at a line and column, as JSON. node yaml.mjs FILE LINE COLUMN
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [file, line, column] = process.argv.slice(2);
const server = spawn("node", ["node_modules/yaml-language-server/bin/yaml-language-server", "--stdio"], {
  stdio: ["pipe", "pipe", "ignore"],
});
const waiting = new Map();
let told, number = 0, read = Buffer.alloc(0);
const diagnostics = new Promise((found) => (told = found));

const send = (message) => {
  const text = JSON.stringify({ jsonrpc: "2.0", ...message });
  server.stdin.write(`Content-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`);
};
const ask = (method, params) =>
  new Promise((answer) => {
    waiting.set(++number, answer);
    send({ id: number, method, params });
  });

function take(message) {
  if (message.method === "workspace/configuration") {
    send({ id: message.id, result: message.params.items.map((one) => (one.section === "yaml" ? { completion: true } : null)) });
  } else if (message.method && message.id !== undefined) send({ id: message.id, result: null });
  else if (message.method === "textDocument/publishDiagnostics") told(message.params.diagnostics);
  else if (message.id !== undefined) waiting.get(message.id)?.(message.result);
}
server.stdout.on("data", (part) => {
  read = Buffer.concat([read, part]);
  for (;;) {
    const end = read.indexOf("\r\n\r\n");
    if (end < 0) return;
    const length = Number(/Content-Length: (\d+)/i.exec(read.subarray(0, end).toString())[1]);
    if (read.length < end + 4 + length) return;
    const body = read.subarray(end + 4, end + 4 + length).toString();
    read = read.subarray(end + 4 + length);
    take(JSON.parse(body));
  }
});

const uri = pathToFileURL(file).href;
await ask("initialize", { processId: process.pid, rootUri: null, capabilities: { workspace: { configuration: true } } });
send({ method: "initialized", params: {} });
send({ method: "textDocument/didOpen", params: { textDocument: { uri, languageId: "yaml", version: 1, text: readFileSync(file, "utf8") } } });
const found = await diagnostics;
const offered = await ask("textDocument/completion", {
  textDocument: { uri }, position: { line: Number(line), character: Number(column) },
});
console.log(JSON.stringify({
  diagnostics: found.map((one) => ({ line: one.range.start.line, message: one.message })),
  offered: (offered?.items ?? offered ?? []).map((one) => one.label),
}));
server.kill();
