// The tables of a report: figures, waste by cause, the largest blocks.
"use strict";

const CAUSES = [
  ["in use", "asked for and not freed"],
  ["waiting", "freed, but another stream is not done with it"],
  ["rounding", "what rounding adds to blocks"],
  ["free in used pages", "beside a live block on the same 2 MiB"],
  ["free pages, held back", "whole pages of a segment or handle that has a live block elsewhere"],
  ["idle", "segments and handles without a live block: these could be given back"],
];

const FIGURES = [
  ["reserved", (m) => formatBytes(m.peak_reserved_bytes)],
  ["× live", (m) => formatRatio(m.ratio)],
  ["needs", (m) => formatBytes(m.min_capacity_bytes)],
  ["mean ×", (m) => formatRatio(m.mean_ratio)],
  ["in driver", (m) => formatTime(m.driver_us)],
  ["waits", (m) => formatTime(m.wait_us)],
  ["rounding", (m) => formatBytes(m.rounding_at_peak_bytes)],
  ["free", (m) => formatBytes(m.free_at_peak_bytes)],
  ["driver calls", (m) => formatCount(Object.values(m.driver_calls).reduce((a, b) => a + b, 0))],
];

function headRow(names, texts = 0) {
  const kind = (index) => (index > 0 && index >= names.length - texts ? "text" : "");
  const cells = names.map((name, index) => make("th", { scope: "col", class: kind(index) }, name));
  return make("thead", {}, make("tr", {}, ...cells));
}

/** The figures of all policies; a row chooses its policy. */
function fillFigures(table, trace, chosen, choose) {
  const known = FIGURES.filter(([name, of]) => name !== "needs" || trace.policies.some((p) => of(p.metrics) !== "–"));
  const rows = trace.policies.map(({ label, metrics }, index) => {
    const cells = known.map(([name, of]) =>
      metrics.oom && name === "× live" ? make("td", { class: "warn" }, "out of memory") : make("td", {}, of(metrics)));
    const attributes = { tabindex: 0, "aria-label": `Show ${label}`, class: index === chosen ? "chosen" : "" };
    const row = make("tr", attributes, make("td", {}, label), ...cells);
    const act = () => choose(index);
    row.addEventListener("click", act);
    row.addEventListener("keydown", (event) => event.key === "Enter" && act());
    return row;
  });
  if (trace.recorded_peak_bytes !== null) {
    const metrics = {
      peak_reserved_bytes: trace.recorded_peak_bytes,
      ratio: trace.peak_live_bytes ? trace.recorded_peak_bytes / trace.peak_live_bytes : null,
      mean_ratio: trace.recorded_mean_ratio,
      driver_calls: {},
    };
    const said = ["reserved", "× live", "mean ×"];
    const cells = known.map(([name, of]) => make("td", {}, said.includes(name) ? of(metrics) : "–"));
    rows.push(make("tr", {}, make("td", {}, "as recorded"), ...cells));
  }
  table.replaceChildren(headRow(["policy", ...known.map(([name]) => name)]), make("tbody", {}, ...rows));
}

/** What each cause has at a moment; `rounding` is unknown where the policy does not tell. */
function fillCauses(table, causes, moment, tells) {
  const sum = causes.reduce((all, values) => all + (values[moment] || 0), 0);
  const colours = CAUSE_COLOURS[isDark() ? "dark" : "light"];
  const rows = CAUSES.map(([name, why], index) => {
    const bytes = causes[index][moment] || 0;
    const swatch = make("span", { class: "swatch" });
    swatch.style.background = colours[index];
    const unknown = index === 2 && !tells;
    const part = unknown ? "" : sum ? `${((100 * bytes) / sum).toFixed(1)}%` : "–";
    return make("tr", { title: why },
      make("td", {}, swatch, name, make("span", { class: "dim small" }, unknown ? " (not told by this policy)" : "")),
      make("td", {}, unknown ? "–" : formatBytes(bytes)), make("td", { class: "dim" }, part));
  });
  rows.push(make("tr", {}, make("td", {}, make("b", {}, "reserved")), make("td", {}, make("b", {}, formatBytes(sum))), make("td", {}, "")));
  table.replaceChildren(make("tbody", {}, ...rows));
}

/** The numbers in the page of the largest blocks that are live at a moment. */
function largestBlocks(trace, policy, moment, count) {
  const found = [];
  let least = -1;
  for (let b = 0; b < trace.sizes.length; b++) {
    if (trace.from[b] > moment || trace.to[b] <= moment || policy.blocks[b] < 0) continue;
    if (found.length >= count && trace.sizes[b] <= least) continue;
    found.push(b);
    if (found.length >= 4 * count) {
      found.sort((x, y) => trace.sizes[y] - trace.sizes[x]).length = count;
      least = trace.sizes[found[count - 1]];
    }
  }
  return found.sort((x, y) => trace.sizes[y] - trace.sizes[x]).slice(0, count);
}

/** The frames of who asked for a block, innermost first; none if that is not known. */
function framesOf(stacks, block) {
  if (!stacks) return [];
  const stack = stacks.stacks[stacks.blocks[block]] || [];
  return stack.map((number) => {
    const [file, line, name] = stacks.frames[number];
    return { file: stacks.names[file], line, name: stacks.names[name] };
  });
}

function frameText({ file, line, name }) {
  return `${name} (${file}${line ? `:${line}` : ""})`;
}

/** The frame that says most: the innermost of Python. */
function mainFrame(frames) {
  return frames.find(({ file }) => file.endsWith(".py")) || frames[0];
}

function fillBlocks(table, { trace, policy, stacks, moment, now, chosen, choose }) {
  const names = ["size", "stream", "age", stacks ? "asked for in" : "address"];
  const rows = largestBlocks(trace, policy, moment, 12).map((b) => {
    const frame = mainFrame(framesOf(stacks, b));
    const where = stacks ? (frame ? frameText(frame) : "–") : hex(addressOf(policy, policy.blocks[b]));
    const row = make("tr", { tabindex: 0, class: b === chosen ? "chosen" : "", "data-block": b },
      make("td", {}, formatBytes(trace.sizes[b])), make("td", {}, String(trace.streams[b])),
      make("td", {}, formatTime(Math.max(0, now - trace.born[b]))), make("td", { class: "text", title: where }, where));
    return row;
  });
  if (rows.length === 0) rows.push(make("tr", {}, make("td", { colspan: 4 }, "Nothing is live at this moment.")));
  table.replaceChildren(headRow(names, 1), make("tbody", {}, ...rows));
  const act = (event) => {
    const row = event.target.closest("tr[data-block]");
    if (row && (event.type === "click" || event.key === "Enter")) choose(Number(row.dataset.block));
  };
  table.onclick = act;
  table.onkeydown = act;
}

function hex(number) {
  return `0x${number.toString(16)}`;
}

/** What is known of a block. */
function fillBlock(element, { trace, policy, stacks, block, now }) {
  if (block < 0) {
    element.replaceChildren();
    return;
  }
  const end = trace.to[block] < trace.times.length ? `until ${formatTime(trace.times[trace.to[block]])}` : "to the end";
  const place = policy.blocks[block];
  const lines = [
    make("div", {}, make("b", {}, `Block ${trace.ids[block]}`), ` · ${formatBytes(trace.sizes[block])}`,
      policy.rounding[block] > 0 ? ` + ${formatBytes(policy.rounding[block])} rounding` : ""),
    make("div", { class: "dim" }, `device ${trace.devices[block]}, stream ${trace.streams[block]}, `
      + (place < 0 ? "not handed out by this policy" : `at ${hex(addressOf(policy, place))}`)),
    make("div", { class: "dim" }, `asked for at ${formatTime(trace.born[block])}, live ${end}`
      + (trace.born[block] <= now ? `; ${formatTime(now - trace.born[block])} old` : "")),
  ];
  const frames = framesOf(stacks, block);
  if (frames.length) lines.push(make("ol", {}, ...frames.map((frame) => make("li", {}, frameText(frame)))));
  element.replaceChildren(...lines);
}
