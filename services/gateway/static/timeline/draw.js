// Lanes on a canvas: those that can be seen, at the scroll position where the reader is.
export const LANE_PX = 32;
export const LABEL_PX = 150;

export function xOf(at, view, width) {
  return LABEL_PX + ((at - view.from) / (view.until - view.from)) * (width - LABEL_PX);
}

export function colours(element) {
  const style = getComputedStyle(element);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  return Object.fromEntries(["front", "dim", "line", "card", "queued", "fetching", "loading", "running", "bad", "dead", "parked", "accent"].map((name) => [name, of(name)]));
}

export function drawLanes(canvas, lanes, view, { top, width, height, selected, paint }) {
  const ratio = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "12px system-ui, sans-serif";
  grid(context, view, width, height, paint);
  const first = Math.max(Math.floor(top / LANE_PX), 0);
  const last = Math.min(Math.ceil((top + height) / LANE_PX), lanes.length);
  for (let at = first; at < last; at += 1) drawLane(context, lanes[at], at * LANE_PX - top, view, width, selected, paint);
}

function grid(context, view, width, height, paint) {
  context.strokeStyle = paint.line;
  context.beginPath();
  for (let step = 1; step < 6; step += 1) {
    const x = Math.round(LABEL_PX + (step / 6) * (width - LABEL_PX)) + 0.5;
    context.moveTo(x, 0);
    context.lineTo(x, height);
  }
  context.stroke();
}

function drawLane(context, lane, y, view, width, selected, paint) {
  context.save();
  context.beginPath();
  context.rect(LABEL_PX, y, width - LABEL_PX, LANE_PX);
  context.clip();
  lane.busy?.parts.forEach((jobs, part) => {
    if (!jobs) return;
    const from = lane.busy.from + part * lane.busy.each, x = xOf(from, view, width);
    context.globalAlpha = Math.min(0.25 + jobs / 4, 1);
    context.fillStyle = paint.running;
    context.fillRect(x, y + 5, Math.max(xOf(from + lane.busy.each, view, width) - x, 1), LANE_PX - 10);
  });
  context.globalAlpha = 1;
  const each = (LANE_PX - 8) / lane.rows;
  for (const bar of lane.bars) drawBar(context, bar, y + 4 + bar.row * each, each - 1, view, width, bar === selected, paint);
  for (const mark of lane.marks) drawMark(context, mark, y, xOf(mark.at, view, width), paint, mark === selected);
  context.restore();
  context.fillStyle = paint.front;
  context.fillText(fitted(context, lane.name, LABEL_PX - 10), 6, y + 13);
  context.fillStyle = paint.dim;
  context.fillText(fitted(context, lane.about, LABEL_PX - 10), 6, y + 26);
  context.strokeStyle = paint.line;
  context.beginPath();
  context.moveTo(0, Math.round(y + LANE_PX) - 0.5);
  context.lineTo(width, Math.round(y + LANE_PX) - 0.5);
  context.stroke();
}

function drawBar(context, bar, y, height, view, width, isSelected, paint) {
  const right = xOf(bar.until, view, width), left = xOf(bar.from, view, width);
  if (right < LABEL_PX || left > width) return;
  if (right - left < 3) { // too short for its parts
    context.fillStyle = bar.kind === "failed" ? paint.bad : bar.kind === "cancelled" ? paint.dead : paint.running;
    context.fillRect(left, y, Math.max(right - left, 1.5), height);
  } else {
    let at = bar.from;
    for (const part of ["queued", "fetching", "loading", "running"]) {
      const took = bar.parts[part] || 0;
      if (!took) continue;
      const x = xOf(at, view, width), end = xOf(at + took, view, width);
      context.fillStyle = part === "running" && bar.kind === "failed" ? paint.bad : part === "running" && bar.kind === "cancelled" ? paint.dead : paint[part];
      const thin = part === "queued" ? height * 0.35 : height; // a job that waits takes nothing
      context.fillRect(x, y + (height - thin) / 2, Math.max(end - x - 0.5, 0.5), thin);
      at += took;
    }
    if (bar.kind === "failed") {
      context.strokeStyle = paint.bad;
      context.lineWidth = 2;
      context.strokeRect(left + 1, y + 1, right - left - 2, height - 2);
      context.lineWidth = 1;
    }
  }
  if (isSelected) outline(context, left - 2, y - 2, Math.max(right - left, 2) + 4, height + 4, paint);
}

function outline(context, x, y, width, height, paint) {
  context.strokeStyle = paint.front;
  context.lineWidth = 2;
  context.strokeRect(x, y, width, height);
  context.lineWidth = 1;
}

function drawMark(context, mark, y, x, paint, isSelected) {
  context.fillStyle = { failed: paint.bad, load: paint.loading, evict: paint.parked, mark: paint.accent }[mark.kind];
  context.beginPath();
  if (mark.kind === "failed") { // a cross, a triangle up or down, a diamond: told apart without colours
    context.rect(x - 4, y + 13, 9, 3);
    context.rect(x - 1, y + 10, 3, 9);
  } else if (mark.kind === "load") {
    context.moveTo(x - 4, y + 10); context.lineTo(x + 4, y + 10); context.lineTo(x, y + 2);
  } else if (mark.kind === "evict") {
    context.moveTo(x - 4, y + 22); context.lineTo(x + 4, y + 22); context.lineTo(x, y + 30);
  } else {
    context.moveTo(x, y + 8); context.lineTo(x + 5, y + 15); context.lineTo(x, y + 22); context.lineTo(x - 5, y + 15);
  }
  context.fill();
  if (isSelected) outline(context, x - 7, y + 1, 14, LANE_PX - 2, paint);
}

function fitted(context, text, width) {
  if (!text || context.measureText(text).width <= width) return text || "";
  let end = text.length;
  while (end > 3 && context.measureText(`${text.slice(0, end)}…`).width > width) end -= Math.ceil(end / 12);
  return `${text.slice(0, end)}…`;
}

// The bar or mark at a place of the canvas; null where there is none.
export function hit(lanes, view, { x, y, top, width }) {
  const at = Math.floor((y + top) / LANE_PX);
  const lane = lanes[at];
  if (!lane || x < LABEL_PX) return null;
  const mark = lane.marks.find((one) => Math.abs(xOf(one.at, view, width) - x) <= 5);
  if (mark) return { lane: at, item: mark };
  const row = Math.min(Math.max(Math.floor(((y + top) - at * LANE_PX - 4) / ((LANE_PX - 8) / lane.rows)), 0), lane.rows - 1);
  const near = lane.bars.filter((one) => xOf(one.from, view, width) - 2 <= x && xOf(one.until, view, width) + 2 >= x);
  const bar = near.filter((one) => one.row === row).pop() || near.pop();
  return bar ? { lane: at, item: bar } : null;
}
