// What the page shows of one moment: the read-out, the map, the tables beside it.
"use strict";

/** How far a policy's data goes: its last moment. */
function lastMoment(policy) {
  return Math.max(0, Math.min(page.moment, policy.causes[0].length - 1));
}

function drawMoment() {
  const policy = policyNow().read;
  const moments = page.trace.times.length;
  if (!moments) return;
  const us = timeNow();
  const at = lastMoment(policy);
  const reserved = policy.causes.reduce((sum, values) => sum + (values[at] || 0), 0);
  const live = (policy.causes[0][at] || 0) + (policy.causes[1][at] || 0);
  const said = `${formatTime(us)} · event ${formatCount(page.trace.events[page.moment])} · `
    + `${formatBytes(live)} live · ${formatBytes(reserved)} reserved by ${policyNow().label}`;
  // The map first: it asks for sizes, which is cheap only before anything else is changed.
  drawMap(at, us);
  $("time").value = page.moment;
  $("now").textContent = said;
  const chart = $("chart");
  for (const [name, value] of [["min", 0], ["max", moments - 1], ["now", page.moment], ["text", said]]) {
    chart.setAttribute(`aria-value${name}`, value);
  }
  fillCauses($("causes"), policy.causes, at, policyNow().tells_rounding);
  const choose = (block) => chooseBlock(block);
  const about = { trace: page.trace, policy, stacks: page.stacks, moment: at, now: us, chosen: page.block, choose };
  fillBlocks($("blocks"), about);
  fillBlock($("block"), { ...about, block: page.block });
}

function chooseBlock(block) {
  page.block = page.block === block ? NOBODY : block;
  redraw("map");
}

/** How the map is coloured: the pixels of each block, and what explains them. */
function painting(us) {
  const theme = isDark() ? "dark" : "light";
  const { sizes, streams, born } = page.trace;
  const kind = $("colour").value;
  const style = (name) => pixel(styleOf(name));
  const paint = { none: style("--none"), held: style("--held"), edge: style("--edge"), alias: style("--alias"),
    rounding: style("--rounding"), chosen: style("--ink") };
  if (kind === "stream") {
    const colours = COLOURS[theme].map(pixel);
    paint.colourOf = (b) => colours[streams[b] % colours.length];
    return paint;
  }
  const ramp = RAMPS[theme][kind];
  const steps = rampPixels(ramp);
  const [low, high] = kind === "size" ? [512, Math.max(1024, page.largest())] : [100, Math.max(1e3, entry().run_us)];
  const scale = 63 / Math.log(high / low);
  const values = kind === "size" ? (b) => sizes[b] : (b) => us - born[b];
  paint.colourOf = (b) => steps[Math.max(0, Math.min(63, Math.round(Math.log(values(b) / low) * scale))) || 0];
  paint.legend = { ramp, low, high };
  return paint;
}

/** The largest block of the trace that is in the page. */
page.largest = () => {
  const at = entry();
  at.largest ??= page.trace.sizes.reduce((a, b) => Math.max(a, b), 0);
  return at.largest;
};

function drawMap(at, us) {
  const paint = painting(us);
  map.draw(at, paint, page.block);
  const format = $("colour").value === "size" ? formatBytes : formatTime;
  const key = `${$("colour").value} ${isDark()} ${page.number}`;
  if (page.legendKey !== key) {
    page.legendKey = key;
    fillMapLegend(paint, format);
  }
  const { unit } = policyNow().read;
  const shown = (map.view[1] - map.view[0]) * unit;
  const from = map.isZoomed() ? ` Shown from ${hex(addressOf(policyNow().read, Math.floor(map.view[0])))} on.` : "";
  const least = entry().least_shown_bytes;
  const left = least ? ` Blocks below ${formatBytes(least)} are not shown.` : "";
  const note = `${formatBytes(shown)} of addresses, row by row: all that held memory at some moment. `
    + `${formatCount(map.held)} segments or mappings now.${from}${left} Ctrl and wheel or the buttons zoom, dragging moves.`;
  if ($("map-note").textContent !== note) $("map-note").textContent = note;
}

function fillMapLegend(paint, format) {
  const keys = [];
  if (paint.legend) {
    const bar = make("span", { class: "bar" });
    bar.style.background = `linear-gradient(90deg, ${paint.legend.ramp.join(", ")})`;
    keys.push(make("span", { class: "key" }, format(paint.legend.low), bar, format(paint.legend.high)));
  } else {
    for (let stream = 0; stream < Math.min(entry().streams, COLOURS.light.length); stream++) {
      keys.push(key(colourOf(stream), `stream ${stream}`));
    }
  }
  keys.push(key(styleOf("--rounding"), "rounding"), key(styleOf("--held"), "held and free"),
    key(styleOf("--alias"), "in use at another address"), key(styleOf("--none"), "not held"));
  $("map-legend").replaceChildren(...keys);
}

function key(colour, text) {
  const swatch = make("span", { class: "swatch" });
  swatch.style.background = colour;
  return make("span", { class: "key" }, swatch, text);
}
