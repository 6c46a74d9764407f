// Where the focus goes when what has it is removed: a button that has done its work, a row that is gone. A browser
// gives it to nothing, and who has only a keyboard would begin again at the top of the page.
const FOCUSABLE = "a[href], button:not(:disabled), input, select, textarea, summary, [tabindex='0']";

export function keepFocus(main) {
  let last = null, around = [];
  const note = (event) => {
    last = event.target;
    around = [];
    for (let one = last.parentElement; one && one !== main.parentElement; one = one.parentElement) around.push(one);
  };
  const look = () => {
    if (!last || last.isConnected) return;
    last = null;
    if (document.activeElement !== document.body) return;
    const near = around.find((one) => one.isConnected && one !== main && (one.matches(FOCUSABLE) || one.querySelector(FOCUSABLE)));
    const next = !near ? main : near.matches(FOCUSABLE) ? near : near.querySelector(FOCUSABLE);
    next.focus({ preventScroll: next === main });
  };
  main.addEventListener("focusin", note);
  const seen = new MutationObserver(look);
  seen.observe(main, { childList: true, subtree: true });
  return () => { main.removeEventListener("focusin", note); seen.disconnect(); };
}
