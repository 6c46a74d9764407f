// A form made from a JSON Schema: one field for each property; what has no simple field is JSON. `valuesOf` gives
// what the fields say, as the schema's types, without those that are empty and need not be there.
import { html } from "./base.js";

function kindOf(schema) {
  if (schema.enum) return "choice";
  const options = (schema.anyOf || schema.oneOf || []).filter((one) => one.type !== "null");
  if (options.length === 1) return kindOf(options[0]);
  const type = Array.isArray(schema.type) ? schema.type.find((one) => one !== "null") : schema.type;
  return { string: "text", integer: "number", number: "number", boolean: "yes" }[type] || "json";
}

export function resolved(schema, root = schema) {
  if (!schema?.$ref?.startsWith("#/")) return schema || {};
  return schema.$ref.slice(2).split("/").reduce((found, part) => found?.[part.replaceAll("~1", "/").replaceAll("~0", "~")], root) || {};
}

export function fieldsOf(schema) {
  const top = resolved(schema);
  return Object.entries(top.properties || {}).map(([name, given]) => {
    const one = resolved(given, schema);
    return { name, schema: one, kind: kindOf(one), isRequired: (top.required || []).includes(name), about: given.description || one.description || "" };
  });
}

function Field({ field, value, set }) {
  const { name, schema, kind } = field;
  const id = `field-${name}`;
  const common = { id, name, required: field.isRequired && kind !== "yes", "aria-describedby": field.about ? `${id}-about` : undefined };
  const typed = (event) => set(name, event.target.value);
  const given = value ?? "";
  const fallback = schema.default === undefined || schema.default === null ? "" : typeof schema.default === "string" ? schema.default : JSON.stringify(schema.default);
  const input = {
    choice: () => html`<select ...${common} value=${given} onChange=${typed}>${!field.isRequired && html`<option value="">${fallback ? `default: ${fallback}` : "not given"}</option>`}
      ${field.isRequired && given === "" && html`<option value="" disabled>choose</option>`}
      ${(schema.enum || []).map((one) => html`<option key=${one} value=${one}>${String(one)}</option>`)}</select>`,
    number: () => html`<input ...${common} type="number" step=${schema.type === "integer" ? 1 : "any"} min=${schema.minimum} max=${schema.maximum} placeholder=${fallback} value=${given} onInput=${typed} />`,
    yes: () => html`<input ...${common} type="checkbox" checked=${value ?? schema.default ?? false} onChange=${(event) => set(name, event.target.checked)} />`,
    text: () => (schema.maxLength && schema.maxLength <= 100
      ? html`<input ...${common} placeholder=${fallback} value=${given} onInput=${typed} />`
      : html`<textarea ...${common} rows="2" placeholder=${fallback} onInput=${typed} value=${given}></textarea>`),
    json: () => html`<textarea ...${common} rows="3" class="mono" placeholder=${fallback || "JSON"} onInput=${typed} value=${given}></textarea>`,
  }[kind]();
  return html`<p><label for=${id}>${name}${field.isRequired ? " (required)" : ""}</label>${input}
    ${field.about && html`<span id=${`${id}-about`} class="dim">${field.about}</span>`}</p>`;
}

export function SchemaFields({ schema, values, set }) {
  const fields = fieldsOf(schema);
  if (!fields.length) return html`<p class="dim">It takes no input.</p>`;
  return html`<div class="fields">${fields.map((field) => html`<${Field} key=${field.name} field=${field} value=${values[field.name]} set=${set} />`)}</div>`;
}

// Raises SyntaxError where a field that is JSON is not.
export function valuesOf(schema, values) {
  const found = {};
  for (const { name, kind, isRequired } of fieldsOf(schema)) {
    const value = values[name];
    if (kind === "yes") {
      if (value !== undefined) found[name] = value;
    } else if (value === undefined || value === "") {
      if (isRequired && kind === "text") found[name] = "";
    } else if (kind === "number") {
      found[name] = Number(value);
    } else if (kind === "json") {
      try {
        found[name] = JSON.parse(value);
      } catch (error) {
        throw new SyntaxError(`${name} is not JSON: ${error.message}`);
      }
    } else {
      found[name] = value;
    }
  }
  return found;
}
