/* Layers that the address names, shaded on the depth charts: an alert leads to its own. */

import { query } from "./address.js";

/** @import { Chart } from "./types" */

const SHADE = "rgba(220, 53, 69, 0.12)";
const EDGE = "rgba(220, 53, 69, 0.55)";

/** First and last of the layers that the address names, e.g. `?layers=7-24`; null for none. */
export function namedLayers() {
  const match = /^(\d{1,6})(?:-(\d{1,6}))?$/.exec(query("layers") || "");
  if (!match) return null;
  const first = Number(match[1]);
  const last = match[2] === undefined ? first : Number(match[2]);
  return { first: Math.min(first, last), last: Math.max(first, last) };
}

/**
 * Shades the layers on a chart over layers.
 * @param {Chart} chart
 */
export function markLayers(chart) {
  const layers = namedLayers();
  if (!layers) return;
  const shape = {
    type: "rect",
    name: "named-layers",
    xref: "x",
    yref: "paper",
    x0: layers.first - 0.5,
    x1: layers.last + 0.5,
    y0: 0,
    y1: 1,
    layer: "below",
    fillcolor: SHADE,
    line: { width: 1, color: EDGE, dash: "dot" },
  };
  Plotly.update(chart, {}, { shapes: [shape] });
}
