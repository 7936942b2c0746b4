// Columns of numbers from the page's data: base 64, deflated, variable-length integers.
"use strict";

/** The bytes behind a text of the page. */
async function unpack(text) {
  const packed = atob(text);
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Reads columns one after the other, as columns.rs writes them. */
class Columns {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  number() {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      if (this.at >= this.bytes.length) throw new RangeError("a column of the page is cut off");
      const byte = this.bytes[this.at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  }

  /** A column of numbers as they are. */
  plain() {
    const count = this.number();
    const numbers = new Float64Array(count);
    for (let i = 0; i < count; i++) numbers[i] = this.number();
    return numbers;
  }

  /** A column of differences, as sums. */
  differences() {
    const numbers = this.plain();
    let last = 0;
    for (let i = 0; i < numbers.length; i++) {
      const folded = numbers[i];
      last += folded % 2 ? -(folded + 1) / 2 : folded / 2;
      numbers[i] = last;
    }
    return numbers;
  }

  ranges() {
    const most = this.differences();
    const least = this.plain().map((below, i) => most[i] - below);
    return { most, least };
  }
}

/** The first index of a sorted array whose number is above `value`. */
function above(numbers, value) {
  let low = 0;
  let high = numbers.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (numbers[middle] > value) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** What is the same for all policies of a trace. */
function readTrace(bytes) {
  const columns = new Columns(bytes);
  const trace = {
    events: columns.differences(),
    times: columns.differences(),
    live: columns.ranges(),
    ids: columns.differences(),
    sizes: columns.plain(),
    streams: columns.plain(),
    devices: columns.plain(),
    born: columns.differences(),
    from: columns.differences(),
    to: columns.plain(),
  };
  for (let i = 0; i < trace.to.length; i++) trace.to[i] += trace.from[i];
  return trace;
}

/** What a policy did, with places of `unit` bytes for addresses. */
function readPolicy(bytes) {
  const columns = new Columns(bytes);
  const reserved = columns.ranges();
  const causes = Array.from({ length: 6 }, () => columns.differences());
  const unit = columns.plain()[0];
  const spans = {
    devices: columns.plain(),
    starts: columns.differences(),
    lengths: columns.plain(),
  };
  spans.places = new Float64Array(spans.lengths.length);
  let places = 0;
  for (let i = 0; i < spans.lengths.length; i++) {
    spans.places[i] = places;
    places += spans.lengths[i];
  }
  const mappings = {
    places: columns.differences(),
    lengths: columns.plain(),
    from: columns.plain(),
    to: columns.plain(),
    containers: columns.differences(),
    kinds: columns.plain(),
  };
  for (let i = 0; i < mappings.to.length; i++) mappings.to[i] += mappings.from[i];
  const table = columns.differences();
  // -1: never handed out.
  const blocks = columns.plain().map((number) => (number ? table[number - 1] : -1));
  const rounding = columns.plain();
  return { reserved, causes, unit, spans, places, mappings, blocks, rounding };
}

/** The address of a place. */
function addressOf(policy, place) {
  const span = Math.max(0, above(policy.spans.places, place) - 1);
  return (policy.spans.starts[span] + place - policy.spans.places[span]) * policy.unit;
}
