// The two charts over time and the map, and what they say below the pointer.
"use strict";

/** The tip beside the pointer; gone without lines. */
function tip(lines, event) {
  const element = $("tip");
  element.hidden = !lines;
  if (!lines) return;
  element.replaceChildren(...lines);
  const { width, height } = element.getBoundingClientRect();
  const left = event.clientX + 16 + width > innerWidth ? event.clientX - width - 12 : event.clientX + 16;
  const top = Math.min(event.clientY + 12, innerHeight - height - 8);
  element.style.left = `${Math.max(4, left)}px`;
  element.style.top = `${Math.max(4, top)}px`;
}

const row = (name, value) => make("div", {}, make("span", {}, name), make("b", {}, value));

const shared = { view: () => page.view, time: timeNow, seek, zoom, pan };

const memory = new Chart($("chart"), {
  ...shared,
  most(from, to) {
    const step = entry().step_us;
    const all = [page.trace.live, ...shownPolicies().map(([, policy]) => policy.reserved)];
    return Math.max(...all.map(({ most }) => mostBetween(most, step, from, to)));
  },
  draw(context, x, y, from, to) {
    const step = entry().step_us;
    context.fillStyle = styleOf("--live");
    stepArea(context, page.trace.live.most, step, x, y, from, to);
    context.fillStyle = styleOf("--low");
    stepArea(context, page.trace.live.least, step, x, y, from, to);
    for (const [index, policy] of shownPolicies().reverse()) {
      context.strokeStyle = colourOf(index);
      context.lineWidth = index === page.policy ? 2.6 : 1.8;
      context.setLineDash(dashOf(index));
      stepPath(context, policy.reserved.most, step, x, y, from, to);
      context.stroke();
      context.setLineDash([]);
      const { oom } = entry().policies[index].metrics;
      if (oom) cross(context, x(oom.t_us), y(oom.reserved));
    }
  },
  hover(us, event) {
    if (us === null || !page.trace.times.length) return tip(null);
    const part = Math.min(page.trace.live.most.length - 1, Math.floor(us / entry().step_us));
    const rows = shownPolicies().filter(([, { reserved }]) => part < reserved.most.length)
      .map(([index, { reserved }]) => [reserved.most[part], row(entry().policies[index].label, formatBytes(reserved.most[part]))]);
    rows.sort((a, b) => b[0] - a[0]);
    tip([row(formatTime(us), ""), ...rows.map(([, line]) => line), row("live", formatBytes(page.trace.live.most[part]))], event);
  },
});

const waste = new Chart($("waste"), {
  ...shared,
  most(from, to) {
    const { causes } = policyNow().read;
    const first = Math.max(0, above(page.trace.times, from) - 1);
    const last = Math.min(causes[0].length - 1, above(page.trace.times, to));
    let most = 0;
    for (let i = first; i <= last; i++) most = Math.max(most, causes.reduce((sum, values) => sum + values[i], 0));
    return most;
  },
  draw(context, x, y, from, to) {
    const { causes } = policyNow().read;
    const colours = CAUSE_COLOURS[isDark() ? "dark" : "light"];
    const { oom } = policyNow().metrics;
    stackedAreas(context, page.trace.times, causes, colours, x, y, from, to, oom ? oom.t_us : entry().run_us);
    if (oom) cross(context, x(oom.t_us), y(oom.reserved));
  },
  hover(us, event) {
    const { causes } = policyNow().read;
    if (us === null || !causes[0].length) return tip(null);
    const at = Math.min(causes[0].length - 1, Math.max(0, above(page.trace.times, us) - 1));
    tip([row(formatTime(page.trace.times[at]), ""), ...CAUSES.map(([name], i) => row(name, formatBytes(causes[i][at])))], event);
  },
});

const map = new BlockMap($("map"), {
  pick(block, event, place) {
    if (!event) return tip(null);
    if (block < 0) return tip([row(hex(addressOf(policyNow().read, Math.floor(place))), "nothing live here")], event);
    const { trace } = page;
    tip([row(`block ${trace.ids[block]}`, formatBytes(trace.sizes[block])), row("stream", String(trace.streams[block])),
      row("age", formatTime(Math.max(0, timeNow() - trace.born[block]))),
      row("address", hex(addressOf(policyNow().read, policyNow().read.blocks[block])))], event);
  },
  choose: (block) => chooseBlock(block),
});

function shownPolicies() {
  return [...page.shown].sort((a, b) => a - b).map((index) => [index, entry().policies[index].read])
    .filter(([, policy]) => policy);
}

function cross(context, x, y) {
  context.strokeStyle = styleOf("--warn");
  context.lineWidth = 2.5;
  line(context, x - 6, y - 6, x + 6, y + 6);
  line(context, x - 6, y + 6, x + 6, y - 6);
}
