// What the reader does: moving in time, zooming, keys, playing, the theme.
"use strict";

function seek(us) {
  if (!page.trace.times.length) return;
  const after = above(page.trace.times, us);
  const before = Math.max(0, after - 1);
  const near = after < page.trace.times.length && page.trace.times[after] - us < us - page.trace.times[before];
  toMoment(near ? after : before);
}

function toMoment(moment) {
  const last = page.trace.times.length - 1;
  page.moment = Math.max(0, Math.min(last, Math.round(moment)));
  const us = timeNow();
  const [from, to] = page.view;
  if (us < from || us > to) pan(us - (from + to) / 2);
  redraw("moment");
}

/** Shows `factor` times less of the time around one; all of it for 0. */
function zoom(factor, around = timeNow() ?? 0) {
  const all = Math.max(1, entry().run_us);
  const [from, to] = page.view;
  const length = factor ? Math.min(all, Math.max(Math.min(all, 20), (to - from) / factor)) : all;
  const start = around - (around - from) * (length / (to - from));
  page.view = [start, start + length];
  pan(0);
}

function pan(us) {
  const all = Math.max(1, entry().run_us);
  const length = page.view[1] - page.view[0];
  const start = Math.min(Math.max(0, page.view[0] + us), all - length);
  page.view = [start, start + length];
  redraw("charts");
}

function listen() {
  $("trace").addEventListener("change", (event) => guarded(showTrace(Number(event.target.value))));
  $("policy").addEventListener("change", (event) => guarded(showPolicy(Number(event.target.value))));
  $("colour").addEventListener("change", () => redraw("map"));
  $("time").addEventListener("input", (event) => toMoment(Number(event.target.value)));
  $("zoom-in").addEventListener("click", () => zoom(2));
  $("zoom-out").addEventListener("click", () => zoom(0.5));
  $("zoom-all").addEventListener("click", () => zoom(0));
  const zoomMap = (factor) => {
    const place = page.block >= 0 ? policyNow().read.blocks[page.block] : undefined;
    map.zoom(factor, place >= 0 ? place : undefined);
    redraw("map");
  };
  $("map-in").addEventListener("click", () => zoomMap(2));
  $("map-out").addEventListener("click", () => zoomMap(0.5));
  $("chart").addEventListener("keydown", keys);
  $("map").addEventListener("keydown", mapKeys);
  $("play").addEventListener("click", play);
  $("theme").addEventListener("click", nextTheme);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => applyTheme());
  new ResizeObserver(() => redraw("charts", "moment")).observe($("main"));
}

function keys(event) {
  const far = event.shiftKey ? 10 : 1;
  const page20 = Math.max(1, Math.round(page.trace.times.length / 20));
  const span = page.view[1] - page.view[0];
  const moves = { ArrowRight: far, ArrowUp: far, ArrowLeft: -far, ArrowDown: -far, PageUp: page20, PageDown: -page20,
    Home: -Infinity, End: Infinity };
  if (event.key in moves) {
    const to = page.moment + moves[event.key];
    toMoment(Math.max(0, Math.min(page.trace.times.length - 1, to)));
  } else if (event.key === "+" || event.key === "=") zoom(2);
  else if (event.key === "-") zoom(0.5);
  else if (event.key === "0") zoom(0);
  else if (event.key === "[") pan(-span / 4);
  else if (event.key === "]") pan(span / 4);
  else return;
  event.preventDefault();
}

function mapKeys(event) {
  const span = map.view[1] - map.view[0];
  if (event.key === "+" || event.key === "=") map.zoom(2);
  else if (event.key === "-") map.zoom(0.5);
  else if (event.key === "ArrowDown" || event.key === "ArrowRight") map.pan(span / 8);
  else if (event.key === "ArrowUp" || event.key === "ArrowLeft") map.pan(-span / 8);
  else return;
  event.preventDefault();
  redraw("map");
}

/** Goes through the moments in some ten seconds. */
function play() {
  page.playing = !page.playing;
  $("play").textContent = page.playing ? "Stop" : "Play";
  const moments = page.trace.times.length;
  let start = page.moment >= moments - 1 ? 0 : page.moment;
  const began = performance.now();
  const step = (now) => {
    if (!page.playing) return;
    const moment = start + ((now - began) / 10_000) * moments;
    toMoment(moment);
    if (moment >= moments - 1) play();
    else requestAnimationFrame(step);
  };
  if (page.playing) requestAnimationFrame(step);
}

const THEMES = ["auto", "light", "dark"];

function applyTheme(name = page.theme) {
  page.theme = THEMES.includes(name) ? name : "auto";
  const dark = page.theme === "auto" ? matchMedia("(prefers-color-scheme: dark)").matches : page.theme === "dark";
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").textContent = `Theme: ${page.theme}`;
  if (page.trace) {
    fillLegend();
    redraw("charts", "moment");
  }
}

function nextTheme() {
  applyTheme(THEMES[(THEMES.indexOf(page.theme) + 1) % THEMES.length]);
  try {
    localStorage.setItem("drystone-theme", page.theme);
  } catch {
    // A page from a file may not be allowed to keep anything.
  }
}
