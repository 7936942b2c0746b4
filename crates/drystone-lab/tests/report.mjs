// Reads a page of tests/report.rs with the page's own scripts, and looks at what they make of it.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import vm from "node:vm";

const html = readFileSync(process.argv[2], "utf8");
const text = (id) => html.split(` id="${id}">`)[1].split("</script>")[0];
const scripts = ["columns", "format", "tables"].map((name) =>
  readFileSync(new URL(`../src/report/page/${name}.js`, import.meta.url), "utf8"));
const names = ["unpack", "readTrace", "readPolicy", "addressOf", "above", "formatBytes", "formatTime", "ticks",
  "BYTES", "TIMES", "COLOURS", "largestBlocks", "pixel", "rampPixels"];
const context = { Blob, Response, DecompressionStream, atob, document: {}, exported: {} };
vm.runInNewContext(`${scripts.join("\n")}\nObject.assign(exported, { ${names.join(", ")} });`, context);
const js = context.exported;
const list = (numbers) => Array.from(numbers);

const index = JSON.parse(text("index"));
const trace = js.readTrace(await js.unpack(text(index[0].blob)));
// Blocks of 32 MiB on device 0 and nearly so on device 1, then one of 100 B.
assert.deepEqual(list(trace.ids), [0, 1, 2]);
assert.deepEqual(list(trace.sizes), [33554432, 33554000, 100]);
assert.deepEqual([list(trace.streams), list(trace.devices)], [[0, 1, 0], [0, 1, 0]]);
assert.deepEqual(list(trace.born), [0, 1000, 3000]);
assert.equal(Math.max(...trace.live.most), 67108432);
const last = trace.times.length - 1;
assert.equal(trace.times[last], 3000);
assert.ok(trace.to[0] <= last && trace.to[1] === last + 1);

const policy = js.readPolicy(await js.unpack(text(index[0].policies[0].blob)));
assert.equal(Math.max(...policy.reserved.most), index[0].policies[0].metrics.peak_reserved_bytes);
const sum = (moment) => policy.causes.reduce((all, values) => all + values[moment], 0);
assert.equal(policy.causes[0].length, last + 1);
assert.equal(sum(last), index[0].policies[0].metrics.end_reserved_bytes);
// Places are the addresses that held memory, each once: segments do not overlap.
const sumOf = (numbers) => list(numbers).reduce((a, b) => a + b, 0);
assert.equal(sumOf(policy.mappings.lengths), policy.places);
assert.deepEqual([...new Set(policy.spans.devices)], [0, 1]);
const addresses = list(policy.blocks).map((place) => js.addressOf(policy, place));
assert.ok(addresses.every((address) => address > 0 && address % 512 === 0), String(addresses));
assert.equal(policy.rounding[1], 432);
assert.deepEqual(list(js.largestBlocks(trace, policy, last, 5)), [1, 2]);

assert.equal(js.formatBytes(0), "0 B");
assert.equal(js.formatBytes(1023), "1023 B");
assert.equal(js.formatBytes(4.97 * 2 ** 30), "4.97 GiB");
assert.equal(js.formatBytes(null), "–");
assert.deepEqual([0, 999, 31_800, 9_180_000, 89e6].map(js.formatTime), ["0", "999 µs", "31.8 ms", "9.18 s", "1.48 min"]);
const axis = js.ticks(js.BYTES, 0, 8.6 * 2 ** 30, 5);
assert.deepEqual([axis.unit, axis.list.map(({ text }) => text).join(" ")], ["GiB", "0 2 4 6 8"]);
assert.deepEqual([0, 1, 2, 9].map((value) => js.above(Float64Array.of(1, 2, 2, 5), value)), [0, 1, 3, 4]);
assert.equal(js.pixel("#123456"), 0xff563412);
assert.equal(js.rampPixels(["#000000", "#ffffff"])[63], 0xffffffff);

// Every line can be told from its paper: a contrast of 3 or more.
const light = (hex) => {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
for (const [theme, paper] of [["light", "#ffffff"], ["dark", "#12161c"]]) {
  for (const colour of js.COLOURS[theme]) {
    const [low, high] = [light(colour), light(paper)].sort((a, b) => a - b);
    assert.ok((high + 0.05) / (low + 0.05) >= 3, `${theme} ${colour}`);
  }
}
