// Reads an AsyncAPI document with the official parser: its findings, and how many channels it has seen, as JSON.
import { Parser } from "@asyncapi/parser";
import { readFileSync } from "node:fs";

const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], "utf8"));
const findings = diagnostics.map((one) => ({ severity: one.severity, code: one.code, message: one.message }));
console.log(JSON.stringify({ findings, channels: document ? document.channels().length : 0 }));
