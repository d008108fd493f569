/* How far a run is from where it began: one block ahead follows a run that went astray as well. */

import { formatNumber } from "./display.js";

/**
 * The layer farthest from its prediction at initialisation; null where none can be compared.
 * @param {Float32Array} measured of shape (layers + 1,)
 * @param {Float32Array} predicted of the same shape, or empty
 * @param {boolean} log whether a distance is a factor, and not a difference
 */
export function farthestLayer(measured, predicted, log) {
  /** @type {{ layer: number, size: number } | null} */
  let farthest = null;
  if (measured.length !== predicted.length) return null;
  for (let layer = 0; layer < measured.length; layer++) {
    const distance = log
      ? Math.log2(measured[layer] / predicted[layer])
      : measured[layer] - predicted[layer];
    const size = Math.abs(distance);
    if (Number.isFinite(size) && size > (farthest?.size ?? -1)) farthest = { layer, size };
  }
  return farthest;
}

/**
 * That layer in words; empty where there is none.
 * @param {Float32Array} measured
 * @param {Float32Array} predicted
 * @param {boolean} log
 */
export function apartText(measured, predicted, log) {
  const farthest = farthestLayer(measured, predicted, log);
  if (!farthest) return "";
  const { layer } = farthest;
  const difference = measured[layer] - predicted[layer];
  const amount = log
    ? `×${formatNumber(measured[layer] / predicted[layer], 3)} of`
    : `${difference < 0 ? "−" : "+"}${formatNumber(Math.abs(difference), 2)} from`;
  return `${amount} initialisation at layer ${layer}`;
}
