// Numbers for people, ticks of axes, and colours.
"use strict";

const BYTES = [["B", 1], ["KiB", 2 ** 10], ["MiB", 2 ** 20], ["GiB", 2 ** 30], ["TiB", 2 ** 40]];
const TIMES = [["µs", 1], ["ms", 1e3], ["s", 1e6], ["min", 60e6], ["h", 3600e6]];

/** The largest unit of which there is at least one. */
function unitOf(units, value) {
  let found = units[0];
  for (const unit of units) if (value >= unit[1]) found = unit;
  return found;
}

/** Three digits or so, none of them lost before the point. */
function short(value) {
  const size = Math.abs(value);
  return value.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2);
}

function formatBytes(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  const [unit, scale] = unitOf(BYTES, Math.abs(bytes));
  return scale === 1 ? `${bytes} B` : `${short(bytes / scale)} ${unit}`;
}

function formatTime(us) {
  if (us === null || us === undefined) return "–";
  if (us === 0) return "0";
  const [unit, scale] = unitOf(TIMES, us);
  return `${scale === 1 ? Math.round(us) : short(us / scale)} ${unit}`;
}

function formatRatio(ratio) {
  return ratio === null || ratio === undefined ? "–" : ratio.toFixed(3);
}

function formatCount(count) {
  return count.toLocaleString("en");
}

/** Round values from `from` to `to`, about `count` of them, and how they are written. */
function ticks(units, from, to, count) {
  const [unit, scale] = unitOf(units, to * 0.999);
  const step = niceStep((to - from) / scale / count);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const list = [];
  for (let i = Math.ceil(from / scale / step - 1e-9); i * step <= (to / scale) * (1 + 1e-9); i++) {
    list.push({ value: i * step * scale, text: (i * step).toFixed(decimals) });
  }
  return { unit, list };
}

/** The least of 1, 2 and 5 times a power of ten that is not below `least`. */
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(Math.max(least, 1e-12)));
  const factor = [1, 2, 5].find((f) => f * power >= least * (1 - 1e-9));
  return (factor || 10) * power;
}

// Each has a contrast of 3 or more to the paper; after the last they begin again, dashed.
const COLOURS = {
  light: ["#c4500a", "#1f77c9", "#0b8457", "#a83e93", "#8a6108", "#1e7a91", "#6b4fd0", "#c22a42", "#5b6b2f"],
  dark: ["#ff8a3d", "#5aa9f0", "#3ecf9a", "#dd85c8", "#e0b040", "#6cc9de", "#a892f0", "#f0758a", "#a9bd6a"],
};
const CAUSE_COLOURS = {
  light: ["#8fabc4", "#6b4fd0", "#c28500", "#d9541e", "#e8926b", "#c9ced6"],
  dark: ["#41617f", "#a892f0", "#e0b040", "#e0652f", "#a85a38", "#4a535f"],
};
// From few or new to many or old; ordered by lightness, which also those see who see no hues.
const RAMPS = {
  light: { size: ["#c9e3c5", "#74bfa5", "#2c8fa3", "#2a5d93", "#3a2a6b"], age: ["#f6d68a", "#ee9b52", "#d2583f", "#983062", "#552065"] },
  dark: { size: ["#2b5a6b", "#2f8a94", "#55b892", "#a5da78", "#f4f1a0"], age: ["#fff0a8", "#f5b45c", "#e2735a", "#b24a86", "#7a4aa8"] },
};

function isDark() {
  return document.documentElement.dataset.theme === "dark";
}

function colourOf(index) {
  const colours = COLOURS[isDark() ? "dark" : "light"];
  return colours[index % colours.length];
}

/** The strokes and gaps of a line; none for a whole line. */
function dashOf(index) {
  return [[], [7, 4], [2, 3]][Math.floor(index / COLOURS.light.length) % 3];
}

/** The theme's colours by name, asked for once: asking makes the browser lay out the page. */
const styles = new Map();

function styleOf(name) {
  const key = `${document.documentElement.dataset.theme} ${name}`;
  if (!styles.has(key)) styles.set(key, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return styles.get(key);
}

/** A colour as a number for the pixels of a picture: alpha, blue, green, red. */
function pixel(hex) {
  const rgb = hex.length === 4 ? hex.replace(/[^#]/g, "$&$&") : hex;
  const value = parseInt(rgb.slice(1), 16);
  return (0xff000000 | ((value & 255) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
}

/** 64 steps between the colours of a ramp, as pixels. */
function rampPixels(colours) {
  const steps = new Uint32Array(64);
  const parts = colours.map((c) => [1, 3, 5].map((at) => parseInt(c.slice(at, at + 2), 16)));
  for (let i = 0; i < steps.length; i++) {
    const at = (i / (steps.length - 1)) * (parts.length - 1);
    const low = Math.min(Math.floor(at), parts.length - 2);
    const mixed = [0, 1, 2].map((k) => parts[low][k] + (parts[low + 1][k] - parts[low][k]) * (at - low));
    const hex = mixed.map((part) => Math.round(part).toString(16).padStart(2, "0"));
    steps[i] = pixel(`#${hex.join("")}`);
  }
  return steps;
}

/** An element with attributes and children; text is never markup. */
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "class") element.className = value;
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** The sample of a policy's line. */
function lineSample(index) {
  const name = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(name, "svg");
  for (const [key, value] of [["width", 26], ["height", 10], ["aria-hidden", true]]) svg.setAttribute(key, value);
  const line = document.createElementNS(name, "line");
  const attributes = { x1: 0, x2: 26, y1: 5, y2: 5, stroke: colourOf(index), "stroke-width": 2.5 };
  for (const [key, value] of Object.entries(attributes)) line.setAttribute(key, value);
  line.setAttribute("stroke-dasharray", dashOf(index).join(" "));
  svg.append(line);
  return svg;
}
