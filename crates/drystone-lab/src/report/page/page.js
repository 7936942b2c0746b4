// Shows a trace, and a policy on it; starts the page.
"use strict";

async function showTrace(number) {
  page.drawable = false;
  page.number = number;
  const at = entry();
  at.columns ||= readTrace(await unpack($(at.blob).textContent));
  if (at.stacks && !at.frames) {
    at.frames = JSON.parse(new TextDecoder().decode(await unpack($(at.stacks).textContent)));
  }
  page.trace = at.columns;
  page.stacks = at.frames || null;
  page.block = NOBODY;
  page.view = [0, Math.max(1, at.run_us)];
  page.shown = new Set(at.policies.map((_, i) => i).filter((i) =>
    at.policies.length <= FEW || FAMILIAR.includes(at.policies[i].label)));
  if (page.shown.size === 0) at.policies.slice(0, 3).forEach((_, i) => page.shown.add(i));
  // The first moment to look at is the one at which most is live.
  page.moment = 0;
  const most = at.columns.live.most.indexOf(at.columns.live.most.reduce((a, b) => Math.max(a, b), 0));
  const after = above(page.trace.times, (most + 1) * at.step_us - 1) - 1;
  page.moment = Math.max(0, Math.min(after, page.trace.times.length - 1));
  describe(at);
  $("pictures").hidden = page.trace.times.length === 0;
  fillSelect($("policy"), at.policies.map(({ label, metrics }) => label + (metrics.oom ? " (out of memory)" : "")));
  $("time").max = Math.max(0, page.trace.times.length - 1);
  for (const index of page.shown) await load(index);
  await showPolicy([...page.shown][0] ?? 0);
}

function describe(at) {
  document.title = `Drystone: ${at.name}`;
  $("title").textContent = at.name;
  const devices = at.devices > 1 ? `, ${at.devices} devices` : "";
  const streams = at.streams > 1 ? `, ${at.streams} streams` : "";
  const findings = at.findings.map((finding) => ` Repaired: ${finding}.`).join("");
  $("about").textContent = `${formatCount(at.events)} events in ${formatTime(at.run_us)}; at most `
    + `${formatBytes(at.peak_live_bytes)} live${devices}${streams}.${findings}`
    + (page.trace.times.length ? "" : " Nothing was allocated, so there is nothing to draw.");
  const { metrics } = at.policies[0];
  const capacity = metrics.capacity_bytes ? ` of ${formatBytes(metrics.capacity_bytes)}` : "";
  const lead = metrics.host_lead_us === null ? "" : `, the host ${formatTime(metrics.host_lead_us)} ahead of its work, ${metrics.costs} costs`;
  $("device").textContent = `Replayed on ${metrics.device === "sim" ? "a simulated device" : metrics.device}${capacity}${lead}.`;
}

function fillSelect(select, names) {
  select.replaceChildren(...names.map((name, value) => make("option", { value }, name)));
}

/** Shows a policy in the map and its waste. */
async function showPolicy(index) {
  await load(index);
  page.policy = index;
  page.shown.add(index);
  page.drawable = true;
  $("policy").value = index;
  map.set(page.trace, policyNow().read);
  $("map").setAttribute("aria-label", `Memory by address with ${policyNow().label}`);
  const { oom, label } = policyNow().metrics.oom ? { ...policyNow().metrics, label: policyNow().label } : {};
  $("stopped").hidden = !oom;
  if (oom) {
    $("stopped").textContent = `${label} ran out of memory after ${formatTime(oom.t_us)}: it was asked for `
      + `${formatBytes(oom.asked)} with ${formatBytes(oom.live)} live and ${formatBytes(oom.reserved)} reserved. `
      + "What is shown later is how it stood then.";
  }
  fillLegend();
  fillFigures($("figures"), entry(), index, showPolicy);
  redraw("charts", "moment");
}

function fillLegend() {
  const live = make("span", { class: "key" }, make("span", { class: "swatch" }), "live");
  live.firstChild.style.background = styleOf("--live");
  const chips = entry().policies.map(({ label, metrics }, index) => {
    const name = metrics.oom ? `${label} ×` : label;
    const attributes = { type: "button", class: "chip", "aria-pressed": String(page.shown.has(index)) };
    const chip = make("button", attributes, lineSample(index), name);
    chip.addEventListener("click", async () => {
      if (page.shown.has(index) && index !== page.policy) page.shown.delete(index);
      else if (page.shown.has(index)) return flash(chip);
      else page.shown.add(index);
      await load(index);
      fillLegend();
      redraw("charts");
    });
    return chip;
  });
  const oom = entry().policies.some(({ metrics }) => metrics.oom);
  const marks = oom ? [make("span", { class: "key" }, "×: out of memory")] : [];
  $("legend").replaceChildren(live, ...chips, ...marks);
}

/** Says that the policy of the map stays in the chart. */
function flash(chip) {
  chip.title = "The map shows this policy";
}

function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = false;
}

/** Says what went wrong instead of showing half a page. */
function guarded(promise) {
  return promise.catch((error) => problem(`The page could not be drawn: ${error.message}`));
}

async function start() {
  let theme = "auto";
  try {
    theme = localStorage.getItem("drystone-theme") || theme;
  } catch {
    // As above.
  }
  applyTheme(theme);
  page.index = JSON.parse($("index").textContent);
  if (typeof DecompressionStream === "undefined") {
    problem("This browser cannot unpack the data of the page: it needs one from 2023 or later.");
    return;
  }
  const traces = page.index.filter((trace) => trace.policies.length > 0);
  page.index = traces;
  if (traces.length === 0) {
    problem("No policy could be replayed, so there is nothing to show.");
    return;
  }
  fillSelect($("trace"), traces.map(({ name }) => name));
  $("traces").hidden = traces.length < 2;
  $("main").hidden = false;
  listen();
  await showTrace(0);
  page.ready = true;
}

guarded(start());
