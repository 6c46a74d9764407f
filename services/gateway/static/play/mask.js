// A mask over a picture: what is painted is drawn anew. With a pointer, with keys, or from a file.
import { html, useEffect, useRef, useState } from "../base.js";

const BRUSHES = [8, 24, 64];

export function MaskPainter({ url, setMask }) {
  const canvas = useRef(null);
  const painted = useRef(null); // white on black, of the picture's size
  const [brush, setBrush] = useState(24);
  const [place, setPlace] = useState({ x: 0.5, y: 0.5 }); // of the keys, as shares of the picture
  const [said, say] = useState("");
  const isDown = useRef(false);

  useEffect(() => {
    const picture = new Image();
    picture.onload = () => {
      const board = canvas.current;
      if (!board) return;
      board.width = picture.naturalWidth;
      board.height = picture.naturalHeight;
      painted.current = document.createElement("canvas");
      painted.current.width = board.width;
      painted.current.height = board.height;
      clear(picture);
    };
    picture.src = url;
    function clear(shown) {
      const paint = painted.current.getContext("2d");
      paint.fillStyle = "#000";
      paint.fillRect(0, 0, painted.current.width, painted.current.height);
      canvas.current.getContext("2d").drawImage(shown, 0, 0);
      setMask(null);
      say("nothing is painted");
    }
    canvas.current.clear = () => clear(picture);
  }, [url]);

  function paint(event) {
    if (!isDown.current) return;
    const box = canvas.current.getBoundingClientRect();
    dab({ x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height });
  }
  function dab(at) {
    const board = canvas.current;
    if (!painted.current) return;
    const x = at.x * board.width, y = at.y * board.height;
    const radius = (brush / board.getBoundingClientRect().width) * board.width / 2;
    for (const [target, colour] of [[board, "rgba(255, 120, 40, .5)"], [painted.current, "#fff"]]) {
      const context = target.getContext("2d");
      context.fillStyle = colour;
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fill();
    }
  }
  function up() {
    if (isDown.current) give();
    isDown.current = false;
  }
  function give() {
    painted.current?.toBlob((blob) => setMask(blob), "image/png");
  }
  function key(event) {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], " ": [0, 0], Enter: [0, 0] }[event.key];
    if (!by) return;
    event.preventDefault();
    const box = canvas.current.getBoundingClientRect();
    const within = (value) => Math.min(Math.max(value, 0), 1);
    const next = { x: within(place.x + by[0] * brush / 2 / box.width), y: within(place.y + by[1] * brush / 2 / box.height) };
    const paints = event.shiftKey || event.key === " " || event.key === "Enter";
    setPlace(next);
    if (paints) { dab(next); give(); }
    say(`${paints ? "painted at" : "at"} ${Math.round(100 * next.x)} % from the left, ${Math.round(100 * next.y)} % from the top`);
  }
  return html`<p><label for="brush">Brush</label>
      <select id="brush" value=${brush} onChange=${(event) => setBrush(Number(event.target.value))}>${BRUSHES.map((one) => html`<option key=${one} value=${one}>${one} pixels</option>`)}</select>
      <button type="button" class="small" onClick=${() => canvas.current.clear()}>Clear the mask</button></p>
    <div class="board"><canvas ref=${canvas} class="mask" tabindex="0" role="application" aria-label="The picture; what is painted over is drawn anew" aria-describedby="mask-keys" onKeyDown=${key}
      onPointerDown=${(event) => { isDown.current = true; event.target.setPointerCapture(event.pointerId); paint(event); }}
      onPointerMove=${paint} onPointerUp=${up} onPointerCancel=${up}></canvas>
      <i class="mask-place" aria-hidden="true" style=${{ left: `${100 * place.x}%`, top: `${100 * place.y}%`, width: `${brush}px`, height: `${brush}px` }}></i></div>
    <p id="mask-keys" class="dim">Arrows move the brush, Space paints, Shift with an arrow paints along.</p>
    <p id="mask-told" role="status" class="dim">${said}</p>
    <p><label for="mask-file">Or a mask from a file (white is drawn anew)</label>
      <input id="mask-file" type="file" accept="image/png" onChange=${(event) => setMask(event.target.files[0] || null)} /></p>`;
}
