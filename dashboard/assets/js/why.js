/* The tab "Why" for one block: opened by a layer of a depth chart, a departure, or its own buttons. */

import { query, setQuery } from "./address.js";
import { all, first } from "./dom.js";

/** @import { QuantityName } from "./types" */
/** @import { DepthChart } from "./depth-chart.js" */

/** The block that the address asks for; null for all of them. */
export function chosenBlock() {
  const block = query("block");
  return block !== null && /^\d+$/.test(block) ? Number(block) : null;
}

/**
 * The block that makes a layer: forward the one below it, backward the one above it.
 *
 * What enters block 0, and the gradient that enters the last block, is made by none: the nearest.
 * @param {QuantityName} name
 * @param {number} layer
 * @param {number} layers how many there are, one more than blocks
 */
export function blockOf(name, layer, layers) {
  const block = name === "gradient" ? layer : layer - 1;
  return Math.max(0, Math.min(layers - 2, block));
}

/**
 * Opens "Why" for a block.
 * @param {number} block
 */
export function openWhy(block) {
  setQuery("block", block);
  first(document, '[data-show="why"]').click();
}

/**
 * A click on a depth chart asks for the block of the layer under the pointer.
 * @param {DepthChart} depth
 * @param {(block: number) => void} onPick
 */
export function followLayers({ chart, name, plot }, onPick) {
  const pick = (/** @type {MouseEvent} */ event) => {
    const { l, w } = chart._fullLayout._size;
    const [from, to] = chart.layout.xaxis.range;
    const x = event.clientX - plot.getBoundingClientRect().left - l;
    if (x < 0 || x > w) return;
    const layers = Math.round(to - from);
    const layer = Math.min(layers - 1, Math.floor((x / w) * layers));
    if (layers > 1) onPick(blockOf(name, layer, layers));
  };
  plot.addEventListener("click", pick);
  plot.classList.add("leads-to-why");
  return () => plot.removeEventListener("click", pick);
}

/**
 * The buttons in "Why" that choose another block, or all of them.
 * @param {() => void} onChange
 */
export function followBlockButtons(onChange) {
  const choose = (/** @type {MouseEvent} */ event) => {
    const { target } = event;
    const button = target instanceof Element ? target.closest("[data-block]") : null;
    if (!(button instanceof HTMLElement)) return;
    setQuery("block", button.dataset.block || null);
    onChange();
  };
  const [panel] = all("#run-causes");
  panel.addEventListener("click", choose);
  return () => panel.removeEventListener("click", choose);
}
