// Tables whose rows are keyed, so that what is focused or selected stays where it is; of long ones only the rows
// that can be seen are there.
import { html, useEffect, useRef, useState } from "./base.js";

const ROW_PX = 34;
const MORE_ROWS = 8;

// columns: [{name, cell(row), isNumber, className}], the first is the row's heading. rows are objects with keys.
export function Table({ label, columns, rows, keyOf, empty, height = 0, rowClass = () => "" }) {
  const box = useRef(null);
  const [top, setTop] = useState(0);
  const isVirtual = height > 0 && rows.length * ROW_PX > height;
  const first = isVirtual ? Math.max(Math.floor(top / ROW_PX) - MORE_ROWS, 0) : 0;
  const last = isVirtual ? Math.min(first + Math.ceil(height / ROW_PX) + 2 * MORE_ROWS, rows.length) : rows.length;
  useEffect(() => { if (box.current && box.current.scrollTop !== top) setTop(box.current.scrollTop); });
  if (!rows.length) return html`<p class="empty">${empty}</p>`;
  const space = (count, key) => count > 0 && html`
    <tr key=${key} aria-hidden="true" class="space" style=${{ height: `${count * ROW_PX}px` }}><td colspan=${columns.length}></td></tr>`;
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label=${label} ref=${box}
         style=${isVirtual ? { maxHeight: `${height}px` } : {}}
         onScroll=${isVirtual ? (event) => setTop(event.target.scrollTop) : undefined}>
      <table class=${isVirtual ? "virtual" : ""} aria-rowcount=${rows.length + 1}>
        <thead><tr>${columns.map((one) => html`
          <th key=${one.name} scope="col" class=${one.isNumber ? "number" : ""}>${one.name}</th>`)}</tr></thead>
        <tbody>
          ${space(first, "before")}
          ${rows.slice(first, last).map((row, at) => html`
            <${Row} key=${keyOf(row)} row=${row} columns=${columns} className=${rowClass(row)} index=${first + at + 2} />`)}
          ${space(rows.length - last, "after")}
        </tbody>
      </table>
    </div>`;
}

function Row({ row, columns, className, index }) {
  return html`<tr class=${className} aria-rowindex=${index}>${columns.map((one, at) => {
    const kind = [one.isNumber ? "number" : "", one.className || ""].join(" ").trim();
    return at === 0
      ? html`<th key=${one.name} scope="row" class=${kind}>${one.cell(row)}</th>`
      : html`<td key=${one.name} class=${kind}>${one.cell(row)}</td>`;
  })}</tr>`;
}

export function Status({ value }) {
  return html`<span class=${`status ${value}`}>${value}</span>`;
}
