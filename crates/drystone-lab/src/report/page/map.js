// The map: all addresses that a policy used, row by row, and what lies there at a moment.
"use strict";

/** Pages of the device: what one mapping of a handle may have in use and another not. */
const PAGE_BYTES = 2 * 1024 * 1024;
const NOBODY = -1;

/** A map in a box. `pick(block, event)` is called for what is below the pointer: the block's number
 *  in the page or -1, and an event or null when it goes away; `choose(block)` on a click. */
class BlockMap {
  constructor(box, { pick, choose }) {
    this.box = box;
    this.canvas = make("canvas", { "aria-hidden": "true" });
    box.append(this.canvas);
    this.view = [0, 1];
    let down = null;
    const fingers = new Map();
    box.addEventListener("pointermove", (event) => {
      if (fingers.size === 2 && fingers.has(event.pointerId)) {
        this.pinch(fingers, event);
      } else if (down && this.isZoomed() && Math.abs(event.clientY - down.y) + Math.abs(event.clientX - down.x) > 6) {
        const rows = (down.y - event.clientY) / this.rowHeight - (event.clientX - down.x) / box.clientWidth;
        this.pan((rows / this.rows) * (down.view[1] - down.view[0]) + down.view[0] - this.view[0]);
        down.moved = true;
      } else {
        pick(this.at(event), event, this.placeAt(event));
      }
    });
    box.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "touch") fingers.set(event.pointerId, event);
      down = { x: event.clientX, y: event.clientY, view: [...this.view], moved: fingers.size > 1 };
    });
    box.addEventListener("pointerup", (event) => {
      if (down && !down.moved) choose(this.at(event));
      down = null;
    });
    box.addEventListener("pointerleave", (event) => {
      fingers.delete(event.pointerId);
      down = null;
      pick(NOBODY, null);
    });
    box.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * 0.004), this.placeAt(event));
    }, { passive: false });
  }

  /** Another policy, or other colours: `colours` has pixels for each kind of thing. */
  set(trace, policy) {
    if (this.policy !== policy) this.view = [0, Math.max(1, policy.places)];
    this.trace = trace;
    this.policy = policy;
    this.owners = null;
  }

  isZoomed() {
    return this.policy && this.view[1] - this.view[0] < this.policy.places;
  }

  /** Shows `factor` times less around a place. */
  zoom(factor, place) {
    const all = Math.max(1, this.policy.places);
    const [from, to] = this.view;
    const middle = place ?? (from + to) / 2;
    const length = Math.min(all, Math.max(Math.min(all, 4096), (to - from) / factor));
    const start = middle - (middle - from) * (length / (to - from));
    this.view = [start, start + length];
    this.pan(0);
  }

  /** Two fingers: as much larger as they are further apart, around what is between them. */
  pinch(fingers, event) {
    const [other] = [...fingers.values()].filter(({ pointerId }) => pointerId !== event.pointerId);
    const apart = ({ clientX, clientY }) => Math.max(8, Math.hypot(clientX - other.clientX, clientY - other.clientY));
    const middle = { clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 };
    this.zoom(apart(event) / apart(fingers.get(event.pointerId)), this.placeAt(middle));
    fingers.set(event.pointerId, event);
  }

  /** Moves along by some places, within what there is. */
  pan(places) {
    const length = this.view[1] - this.view[0];
    const start = Math.min(Math.max(0, this.view[0] + places), Math.max(0, this.policy.places - length));
    this.view = [start, start + length];
    this.redraw();
  }

  redraw() {
    if (this.last) this.draw(...this.last);
  }

  /** The cell below an event; -1 beside the rows. */
  cellAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top) / this.rowHeight);
    const column = Math.floor(((event.clientX - box.left) / box.width) * this.columns);
    const inside = row >= 0 && row < this.rows && column >= 0 && column < this.columns;
    return inside ? row * this.columns + column : -1;
  }

  at(event) {
    const cell = this.cellAt(event);
    return cell >= 0 && this.owners ? this.owners[cell] : NOBODY;
  }

  placeAt(event) {
    const cell = Math.max(0, this.cellAt(event));
    return this.view[0] + (cell / (this.rows * this.columns)) * (this.view[1] - this.view[0]);
  }

  /** Draws what lies where at a moment. `paint` has `colourOf(block)` and the pixels `none`,
   *  `held`, `edge`, `alias`, `rounding`, `chosen`. */
  draw(moment, paint, chosen) {
    this.last = [moment, paint, chosen];
    const scale = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(this.box.clientWidth * scale));
    const height = Math.max(1, Math.round(this.box.clientHeight * scale));
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
      this.picture = null;
    }
    const context = this.canvas.getContext("2d");
    this.picture ||= context.createImageData(width, height);
    const pixels = new Uint32Array(this.picture.data.buffer);
    this.rowHeight = Math.max(7, Math.min(14, this.box.clientHeight / 24));
    this.rows = Math.max(1, Math.floor(this.box.clientHeight / this.rowHeight));
    this.rowHeight = this.box.clientHeight / this.rows;
    this.columns = width;
    const cells = this.rows * this.columns;
    if (!this.owners || this.owners.length !== cells) {
      this.owners = new Int32Array(cells);
      this.colours = new Uint32Array(cells);
    }
    this.owners.fill(NOBODY);
    this.colours.fill(paint.none);
    this.paintMappings(moment, paint);
    this.paintBlocks(moment, paint, chosen);
    pixels.fill(paint.none);
    for (let row = 0; row < this.rows; row++) {
      const line = this.colours.subarray(row * width, (row + 1) * width);
      const top = Math.round(row * this.rowHeight * scale);
      const bottom = Math.min(height, Math.round((row + 1) * this.rowHeight * scale) - 1);
      for (let y = top; y < bottom; y++) pixels.set(line, y * width);
    }
    context.putImageData(this.picture, 0, 0);
  }

  /** Fills the cells of some places; at least one if any of them is in view. */
  fill(place, length, colour, owner) {
    const perPlace = this.colours.length / (this.view[1] - this.view[0]);
    const from = (place - this.view[0]) * perPlace;
    const to = (place + length - this.view[0]) * perPlace;
    if (to <= 0 || from >= this.colours.length) return 0;
    const first = Math.max(0, Math.floor(from));
    const last = Math.min(this.colours.length, Math.max(first + 1, Math.floor(to)));
    this.colours.fill(colour, first, last);
    if (owner !== undefined) this.owners.fill(owner, first, last);
    return last - first;
  }

  paintMappings(moment, paint) {
    const { mappings, unit } = this.policy;
    const alive = [];
    const names = new Map();
    for (let i = 0; i < mappings.places.length; i++) {
      if (mappings.from[i] > moment || mappings.to[i] <= moment) continue;
      alive.push(i);
      names.set(mappings.containers[i], (names.get(mappings.containers[i]) || 0) + 1);
      if (this.fill(mappings.places[i], mappings.lengths[i], paint.held) >= 5) {
        this.fill(mappings.places[i], 0, paint.edge);
      }
    }
    this.held = alive.length;
    if (names.size < alive.length) this.paintAliases(moment, alive, names, unit, paint);
  }

  /** What a handle has in use at one address is not free at its others. */
  paintAliases(moment, alive, names, unit, paint) {
    const { mappings, blocks, rounding } = this.policy;
    const { from, to, sizes } = this.trace;
    const starts = Float64Array.from(alive, (i) => mappings.places[i]);
    const page = PAGE_BYTES / unit;
    const used = new Set();
    for (let b = 0; b < blocks.length; b++) {
      if (from[b] > moment || to[b] <= moment || blocks[b] < 0) continue;
      const end = blocks[b] + Math.max(1, (sizes[b] + rounding[b]) / unit);
      for (let k = Math.max(0, above(starts, blocks[b]) - 1); k < alive.length && starts[k] < end; k++) {
        const container = mappings.containers[alive[k]];
        if (names.get(container) < 2) continue;
        const first = Math.max(0, Math.floor((blocks[b] - starts[k]) / page));
        const last = Math.min(mappings.lengths[alive[k]], end - starts[k]) / page;
        for (let p = first; p < last; p++) used.add(container * 65536 + p);
      }
    }
    for (const i of alive) {
      const container = mappings.containers[i];
      if (names.get(container) < 2) continue;
      for (let p = 0; p * page < mappings.lengths[i]; p++) {
        if (used.has(container * 65536 + p)) {
          const length = Math.min(page, mappings.lengths[i] - p * page);
          this.fill(mappings.places[i] + p * page, length, paint.alias);
        }
      }
    }
  }

  paintBlocks(moment, paint, chosen) {
    const { blocks, rounding, unit } = this.policy;
    const { from, to, sizes } = this.trace;
    let shown = -1;
    for (let b = 0; b < blocks.length; b++) {
      if (from[b] > moment || to[b] <= moment || blocks[b] < 0) continue;
      const size = sizes[b] / unit;
      if (rounding[b] > 0) this.fill(blocks[b] + size, rounding[b] / unit, paint.rounding, b);
      // A gap before those that are wide enough, so that neighbours are told apart.
      if (this.fill(blocks[b], size, paint.colourOf(b), b) >= 5) this.fill(blocks[b], 0, paint.none, b);
      if (b === chosen) shown = b;
    }
    if (shown >= 0) this.fill(blocks[shown], sizes[shown] / unit, paint.chosen, shown);
  }
}
