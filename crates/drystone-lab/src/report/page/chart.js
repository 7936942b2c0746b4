// Charts over the run's time: one frame with axes, zoom and the present moment, used for memory
// and for waste.
"use strict";

const MARGIN = { left: 58, right: 12, top: 12, bottom: 26 };

/** A canvas of the size of its box, in the screen's own pixels. */
function fitCanvas(canvas, box) {
  const scale = Math.min(window.devicePixelRatio || 1, 2);
  const width = Math.max(1, Math.round(box.clientWidth));
  const height = Math.max(1, Math.round(box.clientHeight));
  if (canvas.width !== width * scale || canvas.height !== height * scale) {
    canvas.width = width * scale;
    canvas.height = height * scale;
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** A chart in a box. `source` says what to draw:
 *  - `view()`: the times from and to which it shows;
 *  - `most(from, to)`: the most bytes between them;
 *  - `draw(context, x, y, from, to)`: the curves, with functions from time and bytes to pixels;
 *  - `time()`: the present moment's time;
 *  - `seek(us)`, `zoom(factor, us)`, `pan(us)`: what the reader asks for;
 *  - `hover(us, event)`: what is below the pointer, or nothing with `null`. */
class Chart {
  constructor(box, source) {
    this.box = box;
    this.source = source;
    this.still = make("canvas", { "aria-hidden": "true" });
    this.over = make("canvas", { "aria-hidden": "true" });
    box.append(this.still, this.over);
    this.pointers = new Map();
    this.listen();
  }

  /** From pixels in the box to a time. */
  timeAt(clientX) {
    const [from, to] = this.source.view();
    const box = this.box.getBoundingClientRect();
    const part = (clientX - box.left - MARGIN.left) / (box.width - MARGIN.left - MARGIN.right);
    return from + Math.min(1, Math.max(0, part)) * (to - from);
  }

  listen() {
    const { box, source } = this;
    box.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "mouse" && event.button !== 0) return;
      box.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, event.clientX);
      if (this.pointers.size === 1 && !event.shiftKey) source.seek(this.timeAt(event.clientX));
    });
    box.addEventListener("pointermove", (event) => {
      const before = this.pointers.get(event.pointerId);
      if (before === undefined) {
        source.hover(this.timeAt(event.clientX), event);
        return;
      }
      if (this.pointers.size === 2) {
        this.pinch(event);
      } else if (event.shiftKey) {
        source.pan(this.timeAt(before) - this.timeAt(event.clientX));
      } else {
        source.seek(this.timeAt(event.clientX));
        source.hover(this.timeAt(event.clientX), event);
      }
      this.pointers.set(event.pointerId, event.clientX);
    });
    const release = (event) => {
      this.pointers.delete(event.pointerId);
      if (event.pointerType !== "mouse") source.hover(null);
    };
    box.addEventListener("pointerup", release);
    box.addEventListener("pointercancel", release);
    box.addEventListener("pointerleave", () => source.hover(null));
    box.addEventListener("dblclick", () => source.zoom(0));
    box.addEventListener("wheel", (event) => {
      const [from, to] = source.view();
      if (event.ctrlKey || event.metaKey) {
        source.zoom(Math.exp(-event.deltaY * 0.004), this.timeAt(event.clientX));
      } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
        source.pan(((event.deltaX || event.deltaY) / box.clientWidth) * (to - from));
      } else {
        return; // The page scrolls.
      }
      event.preventDefault();
    }, { passive: false });
  }

  /** Two fingers: what is between them stays between them. */
  pinch(event) {
    const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, x]) => x);
    const before = Math.max(8, Math.abs(this.pointers.get(event.pointerId) - other));
    const now = Math.max(8, Math.abs(event.clientX - other));
    this.source.zoom(now / before, this.timeAt((event.clientX + other) / 2));
  }

  /** Draws everything anew. */
  draw() {
    const { context, width, height } = fitCanvas(this.still, this.box);
    const [from, to] = this.source.view();
    const most = Math.max(1, this.source.most(from, to)) * 1.05;
    const right = width - MARGIN.right;
    const bottom = height - MARGIN.bottom;
    const x = (us) => MARGIN.left + ((us - from) / (to - from)) * (right - MARGIN.left);
    const y = (bytes) => bottom - (bytes / most) * (bottom - MARGIN.top);
    this.x = x;
    context.font = "12px system-ui, sans-serif";
    this.axes(context, { from, to, most, x, y, right, bottom });
    context.save();
    context.beginPath();
    context.rect(MARGIN.left, 0, right - MARGIN.left, bottom);
    context.clip();
    this.source.draw(context, x, y, from, to);
    context.restore();
    context.strokeStyle = styleOf("--dim");
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(MARGIN.left, bottom + 0.5);
    context.lineTo(right, bottom + 0.5);
    context.stroke();
    this.cursor();
  }

  axes(context, { from, to, most, x, y, right, bottom }) {
    const bytes = ticks(BYTES, 0, most, Math.max(2, (bottom - MARGIN.top) / 55));
    const times = ticks(TIMES, from, to, Math.max(2, (right - MARGIN.left) / 110));
    context.fillStyle = styleOf("--dim");
    context.strokeStyle = styleOf("--grid");
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const { value, text } of bytes.list) {
      const at = Math.round(y(value)) + 0.5;
      if (value > 0) line(context, MARGIN.left, at, right, at);
      // The highest label stands for the unit too.
      const last = value === bytes.list[bytes.list.length - 1].value;
      context.fillText(last && value > 0 ? `${text} ${bytes.unit}` : text, MARGIN.left - 6, at);
    }
    context.textBaseline = "top";
    context.textAlign = "center";
    let free = 0;
    for (const { value, text } of times.list) {
      const label = `${text} ${times.unit}`;
      const half = context.measureText(label).width / 2;
      const at = Math.min(x(value), right + MARGIN.right - half - 1);
      if (at - half < free) continue;
      free = at + half + 10;
      line(context, Math.round(x(value)) + 0.5, bottom, Math.round(x(value)) + 0.5, bottom + 4);
      context.fillText(label, at, bottom + 8);
    }
  }

  /** Draws only the present moment. */
  cursor() {
    const { context, height } = fitCanvas(this.over, this.box);
    const us = this.source.time();
    if (!this.x || us === null) return;
    const at = Math.round(this.x(us)) + 0.5;
    if (at < MARGIN.left - 1 || at > this.box.clientWidth - MARGIN.right + 1) return;
    context.strokeStyle = styleOf("--cursor");
    context.lineWidth = 1.5;
    line(context, at, MARGIN.top - 6, at, height - MARGIN.bottom);
    context.fillStyle = styleOf("--cursor");
    context.beginPath();
    context.arc(at, MARGIN.top - 6, 4, 0, 7);
    context.fill();
  }
}

function line(context, x0, y0, x1, y1) {
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.stroke();
}

/** A path of steps over parts of equal time: `values[i]` from `i * step` on. */
function stepPath(context, values, step, x, y, from, to) {
  const first = Math.max(0, Math.floor(from / step));
  const last = Math.min(values.length - 1, Math.ceil(to / step));
  context.beginPath();
  for (let i = first; i <= last; i++) {
    const at = y(values[i]);
    if (i === first) context.moveTo(x(i * step), at);
    else context.lineTo(x(i * step), at);
    context.lineTo(x((i + 1) * step), at);
  }
  return [x(first * step), x((last + 1) * step)];
}

/** The same, down to the axis and filled. */
function stepArea(context, values, step, x, y, from, to) {
  const [left, right] = stepPath(context, values, step, x, y, from, to);
  context.lineTo(right, y(0));
  context.lineTo(left, y(0));
  context.fill();
}

/** The most of some values in parts of equal time. */
function mostBetween(values, step, from, to) {
  let most = 0;
  const last = Math.min(values.length - 1, Math.ceil(to / step));
  for (let i = Math.max(0, Math.floor(from / step)); i <= last; i++) most = Math.max(most, values[i]);
  return most;
}

/** The areas of several series on top of each other; `times` are when each value begins. */
function stackedAreas(context, times, series, colours, x, y, from, to, end) {
  const first = Math.max(0, above(times, from) - 1);
  const last = Math.min(series[0].length - 1, above(times, to));
  if (last < first) return;
  const base = new Float64Array(last - first + 1);
  series.forEach((values, index) => {
    context.beginPath();
    const edge = (i) => x(i < last ? times[i + 1] : Math.max(end, times[i]));
    for (let i = first; i <= last; i++) {
      const at = y(base[i - first] + values[i]);
      context.lineTo(x(times[i]), at);
      context.lineTo(edge(i), at);
    }
    for (let i = last; i >= first; i--) {
      const at = y(base[i - first]);
      context.lineTo(edge(i), at);
      context.lineTo(x(times[i]), at);
      base[i - first] += values[i];
    }
    context.fillStyle = colours[index];
    context.fill();
  });
}
