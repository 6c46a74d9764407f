// Links within the dashboard change the page without loading it anew; back and forward work as everywhere.
const ELSEWHERE = ["/schema", "/metrics", "/v1/", "/static/"];
const listeners = new Set();

export const pathNow = () => location.pathname.replace(/(.)\/+$/, "$1");

function tell() {
  for (const listener of listeners) listener(pathNow());
}

export function go(to, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", to);
  if (!replace) scrollTo(0, 0);
  tell();
}

export function onNavigate(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

// The fields of the address: what a page shows can be sent to somebody as a link.
export const fieldsNow = () => Object.fromEntries(new URLSearchParams(location.search));

export function setFields(fields) {
  const given = Object.entries(fields).filter(([, value]) => value !== "" && value != null);
  const search = new URLSearchParams(given).toString();
  history.replaceState(null, "", search ? `${location.pathname}?${search}` : location.pathname);
}

addEventListener("popstate", tell);
addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  const isPlain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;
  if (!link || !isPlain || event.defaultPrevented || link.target || link.hasAttribute("download")) return;
  const to = new URL(link.href, location.href);
  if (to.origin !== location.origin || (to.hash && to.pathname === location.pathname)) return;
  if (ELSEWHERE.some((start) => to.pathname.startsWith(start))) return;
  event.preventDefault();
  go(to.pathname + to.search);
});
