// A mask over a picture: what is painted is drawn anew. Whoever does not paint with a pointer gives a file.
import { html, useEffect, useRef, useState } from "../base.js";

const BRUSHES = [8, 24, 64];

export function MaskPainter({ url, setMask }) {
  const canvas = useRef(null);
  const painted = useRef(null); // white on black, of the picture's size
  const [brush, setBrush] = useState(24);
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
    }
    canvas.current.clear = () => clear(picture);
  }, [url]);

  function paint(event) {
    const board = canvas.current;
    if (!isDown.current || !painted.current) return;
    const box = board.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * board.width, y = ((event.clientY - box.top) / box.height) * board.height;
    const radius = (brush / box.width) * board.width / 2;
    for (const [target, colour] of [[board, "rgba(255, 120, 40, .5)"], [painted.current, "#fff"]]) {
      const context = target.getContext("2d");
      context.fillStyle = colour;
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fill();
    }
  }
  function up() {
    if (isDown.current) painted.current?.toBlob((blob) => setMask(blob), "image/png");
    isDown.current = false;
  }
  return html`<p><label for="brush">Brush</label>
      <select id="brush" value=${brush} onChange=${(event) => setBrush(Number(event.target.value))}>${BRUSHES.map((one) => html`<option key=${one} value=${one}>${one} pixels</option>`)}</select>
      <button type="button" class="small" onClick=${() => canvas.current.clear()}>Clear the mask</button></p>
    <canvas ref=${canvas} class="mask" role="img" aria-label="The picture; what is painted over is drawn anew"
      onPointerDown=${(event) => { isDown.current = true; event.target.setPointerCapture(event.pointerId); paint(event); }}
      onPointerMove=${paint} onPointerUp=${up} onPointerCancel=${up}></canvas>
    <p><label for="mask-file">Or a mask from a file (white is drawn anew)</label>
      <input id="mask-file" type="file" accept="image/png" onChange=${(event) => setMask(event.target.files[0] || null)} /></p>`;
}
