// What is shown now, and the data that was read so far.
"use strict";

const $ = (id) => document.getElementById(id);
/** Shown at first where there are many policies. */
const FAMILIAR = ["drystone", "pytorch", "pytorch-expandable", "optimal"];
const FEW = 6;

const page = {
  index: [],
  number: 0,
  trace: null,
  policy: 0,
  shown: new Set(),
  moment: 0,
  view: [0, 1],
  block: NOBODY,
  stacks: null,
  frame: 0,
  drawable: false,
  wanted: new Set(),
};

/** The trace that is shown: its entry in the index, with the columns in it once they are read. */
const entry = () => page.index[page.number];
const policyNow = () => entry().policies[page.policy];
const timeNow = () => (page.trace.times.length ? page.trace.times[page.moment] : null);

/** Draws at the next frame what was asked for since the last. */
function redraw(...parts) {
  parts.forEach((part) => page.wanted.add(part));
  if (page.frame) return;
  page.frame = requestAnimationFrame(() => {
    page.frame = 0;
    if (!page.drawable) return; // Another trace is being read; it is drawn when it is there.
    const wanted = page.wanted;
    page.wanted = new Set();
    if (wanted.has("charts")) [memory, waste].forEach((chart) => chart.draw());
    else if (wanted.has("moment")) [memory, waste].forEach((chart) => chart.cursor());
    if (wanted.has("moment") || wanted.has("map")) drawMoment();
  });
}

/** Reads a policy's columns, once. */
async function load(index) {
  const policy = entry().policies[index];
  policy.data ||= unpack($(policy.blob).textContent).then((bytes) => {
    policy.read = readPolicy(bytes);
    return policy.read;
  });
  return policy.data;
}
