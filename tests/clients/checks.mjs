// Official clients in JavaScript, unmodified, against a running Stoker: `node checks.mjs URL`.
// Prints a line of JSON for each check, as checks.py does.

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, streamText, embed, tool, jsonSchema } from "ai";
import { createParser } from "eventsource-parser";
import { z } from "zod";
import { readFileSync } from "node:fs";

const URL_ = process.argv[2].replace(/\/$/, "");
const V1 = URL_ + "/v1";
const messages = [{ role: "user", content: "What is the capital of France?" }];
const City = z.object({ name: z.string(), is_capital: z.boolean() });
const weather = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
const client = new OpenAI({ baseURL: V1, apiKey: "none", maxRetries: 0 });
const ai = createOpenAICompatible({ name: "stoker", baseURL: V1, supportsStructuredOutputs: true });

function must(is, what) {
  if (!is) throw new Error("not so: " + what);
}

function versionOf(name) {
  return JSON.parse(readFileSync(`node_modules/${name}/package.json`)).version;
}

const checks = [
  ["openai-node", "openai", "chat, stream helper", async () => {
    const whole = await client.chat.completions.create({ model: "smol", messages, max_tokens: 16 });
    must(whole.choices[0].message.content, "content");
    const stream = client.chat.completions.stream({ model: "smol", messages, max_tokens: 16 });
    let parts = 0;
    for await (const _ of stream) parts++;
    must(parts > 3 && (await stream.finalContent()), "stream");
  }],
  ["openai-node", "openai", "parse, tools runner", async () => {
    const parsed = await client.chat.completions.parse({
      model: "smol", messages, max_tokens: 60, temperature: 0, response_format: zodResponseFormat(City, "city"),
    });
    City.parse(parsed.choices[0].message.parsed);
    let called = 0;
    const runner = client.chat.completions.runTools({
      model: "smol", messages, max_tokens: 60, temperature: 0, tool_choice: { type: "function", function: { name: "get_weather" } },
      tools: [{ type: "function", function: {
        name: "get_weather", description: "weather", parameters: weather, parse: JSON.parse,
        function: async () => { called++; return "sunny"; },
      } }],
    }, { maxChatCompletions: 1 });
    await runner.done();
    must(called === 1, "the tool was called");
  }],
  ["openai-node", "openai", "responses, embeddings", async () => {
    const made = await client.responses.create({ model: "smol", input: "Hi", max_output_tokens: 8 });
    must(made.output_text, "text");
    const stream = await client.responses.create({ model: "smol", input: "Hi", max_output_tokens: 8, stream: true });
    const kinds = [];
    for await (const event of stream) kinds.push(event.type);
    must(kinds.includes("response.output_text.delta"), "deltas");
    const vectors = await client.embeddings.create({ model: "first", input: ["a", "b"] });
    must(vectors.data.length === 2 && vectors.data[0].embedding.length > 16, "vectors");
  }],
  ["openai-node", "openai", "a stream that waits for its model", async () => {
    const stream = await client.chat.completions.create({ model: "cold", messages, max_tokens: 4, stream: true });
    let text = "";
    for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
    must(text, "text");
  }],
  ["eventsource-parser", "eventsource-parser", "a stream that waits for its model", async () => {
    const answer = await fetch(V1 + "/chat/completions", {
      method: "POST", headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: "cold", messages, max_tokens: 4, stream: true }),
    });
    const found = [];
    const parser = createParser({ onEvent: (event) => found.push(event.data), onError: (error) => { throw error; } });
    const decoder = new TextDecoder();
    for await (const chunk of answer.body) parser.feed(decoder.decode(chunk, { stream: true }));
    must(found.at(-1) === "[DONE]" && found.slice(0, -1).every((one) => JSON.parse(one).choices), "events");
  }],
  ["Vercel AI SDK", "ai", "generateText, streamText, generateObject, tools, embed", async () => {
    const model = ai("smol");
    const prompt = messages[0].content;
    must((await generateText({ model, prompt, maxOutputTokens: 16 })).text, "text");
    let parts = 0;
    for await (const _ of streamText({ model, prompt, maxOutputTokens: 16 }).textStream) parts++;
    must(parts > 3, "parts");
    const made = await generateObject({ model, prompt, schema: City, maxOutputTokens: 60, temperature: 0 });
    City.parse(made.object);
    const called = await generateText({
      model, prompt, maxOutputTokens: 60, toolChoice: "required", temperature: 0,
      tools: { get_weather: tool({ description: "weather", inputSchema: jsonSchema(weather), execute: async () => "sunny" }) },
    });
    must(called.toolCalls.length === 1, "a call");
    must((await embed({ model: ai.textEmbeddingModel("first"), value: "a" })).embedding.length > 16, "vector");
  }],
];

for (const [name, pack, what, run] of checks) {
  let error = "";
  try {
    await run();
  } catch (found) {
    error = String(found?.stack ?? found).slice(0, 2000);
  }
  console.log(JSON.stringify({ client: name, version: versionOf(pack), what, error }));
}
