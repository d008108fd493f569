/* A server of one run, as far as its history goes. */

/** Base64 of little-endian float32, as the API packs vectors. */
export function packed(values) {
  return Buffer.from(Float32Array.from(values).buffer).toString("base64");
}

/** Answers `fetch` with the steps that a run has so far; each row is [step, step, …]. */
export class RunServer {
  constructor({ width = 3, gradient = true } = {}) {
    this.width = width;
    this.gradient = gradient;
    this.steps = [];
    this.losses = null; // base64 of the steps' losses; null: each is its step
    this.requests = [];
    globalThis.fetch = async (url) => this.respond(new URL(url, "http://server"));
  }

  async respond(url) {
    this.requests.push(url.pathname + url.search);
    const unmeasured = !this.gradient && url.search.includes("stream_gradient");
    const body = url.pathname.endsWith("/scalars") ? this.scalars(url) : this.history(url);
    return { ok: !unmeasured, status: unmeasured ? 404 : 200, json: async () => body };
  }

  scalars({ searchParams }) {
    const steps = this.steps.filter((step) => step > Number(searchParams.get("after")));
    return {
      steps,
      values_f32: {
        "/loss/value": this.losses ?? packed(steps),
        "/learning_rate/value": packed(steps),
      },
    };
  }

  history({ searchParams }) {
    const steps = this.steps.filter((step) => step >= Number(searchParams.get("from")));
    const values = steps.flatMap((step) => Array(this.width).fill(step));
    return { steps, n_layers_plus_one: this.width, values_f32: packed(values) };
  }

  /** The live message of a step. */
  frame(step, { skipped = 0 } = {}) {
    const row = packed(Array(this.width).fill(step));
    return {
      type: "frame",
      step,
      skipped,
      scalars: { loss: step, learning_rate: "NaN" },
      series_f32: {
        "decoder/stream/variance": row,
        "decoder/stream/correlation": row,
        ...(this.gradient && { "decoder/stream_gradient/variance": row }),
      },
    };
  }
}
