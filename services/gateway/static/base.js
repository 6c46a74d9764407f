// What every module of the dashboard uses: Preact, and how values are written.
export {
  html, render, useState, useEffect, useLayoutEffect, useRef, useMemo, useCallback, useReducer,
} from "./vendor/preact-htm.js";

export const TIERS = { hot: "hot", loading: "loading", base: "base", parked: "parked", warm: "on disk" };

export function seconds(value) {
  if (value == null) return "–";
  if (value < 0.001) return "0 s";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 10) return `${value.toFixed(2)} s`;
  if (value < 120) return `${Math.round(value)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}

const collator = new Intl.Collator(undefined, { numeric: true });
export const byName = (a, b) => collator.compare(a, b); // worker-2 before worker-10
export const clock = (at) => new Date(at * 1000).toLocaleTimeString();

export function moment(at) {
  const then = new Date(at * 1000);
  const isToday = then.toDateString() === new Date().toDateString();
  return isToday ? then.toLocaleTimeString() : then.toLocaleString();
}

export const megabytes = (mb) => (mb >= 10_000 ? `${(mb / 1000).toFixed(1)} GB` : `${mb} MB`);
export const money = (amount) => (amount < 0.01 ? amount.toFixed(6) : amount.toFixed(4)).replace(/0+$/, "").replace(/\.$/, "");
export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
export const shortId = (id) => (id.length > 14 ? `…${id.slice(-10)}` : id);
