// Queue depth, jobs that run, and p95 above the lanes, on the same time axis (uPlot).
import { html, seconds, useEffect, useRef } from "../base.js";
import uPlot from "../vendor/uplot.js";
import { LABEL_PX, colours } from "./draw.js";

const HEIGHT_PX = 130;
export const RIGHT_PX = 56; // its second axis

export function Chart({ data, view, width, zoomTo }) {
  const box = useRef(null);
  const plot = useRef(null);
  const zoom = useRef(zoomTo);
  zoom.current = zoomTo;
  useEffect(() => {
    const paint = colours(box.current);
    const axis = { stroke: paint.dim, grid: { stroke: paint.line }, ticks: { stroke: paint.line } };
    plot.current = new uPlot({
      width, height: HEIGHT_PX, legend: { live: true }, cursor: { drag: { x: true, y: false, setScale: false } },
      scales: { x: { time: true, range: () => [range.current.from, range.current.until] }, y: { range: (_, low, high) => [0, Math.max(high || 0, 1)] }, s: { range: (_, low, high) => [0, Math.max(high || 0, 0.1)] } },
      series: [
        {}, { label: "waiting", stroke: paint.queued, width: 2, fill: `${paint.queued}33`, paths: uPlot.paths.stepped({ align: -1 }) },
        { label: "running", stroke: paint.running, width: 2, paths: uPlot.paths.stepped({ align: -1 }) },
        { label: "p95", scale: "s", stroke: paint.accent, width: 2, dash: [4, 3], spanGaps: true, value: (_, value) => seconds(value) },
      ],
      axes: [{ ...axis }, { ...axis, size: LABEL_PX }, { ...axis, scale: "s", side: 1, size: RIGHT_PX, grid: { show: false }, values: (_, all) => all.map((one) => `${one} s`) }],
      hooks: { setSelect: [(chart) => {
        if (chart.select.width > 8) zoom.current(chart.posToVal(chart.select.left, "x"), chart.posToVal(chart.select.left + chart.select.width, "x"));
        chart.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
      }] },
    }, data, box.current);
    return () => plot.current.destroy();
  }, []);
  const range = useRef(view);
  range.current = view;
  useEffect(() => {
    const wanted = { width, height: HEIGHT_PX };
    if (plot.current.width !== wanted.width) plot.current.setSize(wanted);
    plot.current.setData(data);
  }, [data, view.from, view.until, width]);
  const last = data[0].length - 1;
  const told = last < 0 ? "no samples yet" : `now ${data[1][last]} waiting, ${data[2][last]} running; most waiting ${Math.max(...data[1])}`;
  return html`<div class="chart" ref=${box} role="img" aria-label=${`Jobs waiting and running, and the 95th percentile of their time: ${told}`}></div>`;
}
