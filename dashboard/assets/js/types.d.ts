/* What the scripts read: the API's answers, live messages, the page's own data, and two globals. */

export type Values = number[] | Float32Array;
export type QuantityName = "variance" | "correlation" | "gradient";

export interface Quantity {
  series: string;
  site: "stream" | "stream_gradient";
  moment: "variance" | "correlation";
  log: boolean;
  relative: boolean;
}

export type Quantities = Record<QuantityName, Quantity>;

/** Numbers that JSON cannot write come as "NaN", "Infinity" and "-Infinity". */
export type ApiNumber = number | string | null | undefined;

// The API's answers; fields whose name ends in _f32 are base64 of little-endian float32.

export interface MissingPart {
  where: string;
  what: string;
  why: string;
}

export interface PackedCurve {
  variance_f32: string;
  variance_low_f32: string;
  variance_high_f32: string;
  correlation_f32: string;
  correlation_low_f32: string;
  correlation_high_f32: string;
}

export interface StackCurves {
  stream: PackedCurve;
  stream_gradient: PackedCurve;
}

export interface Revision {
  step: number;
  state: string;
  reason: string;
  stacks: Record<string, StackCurves>;
  missing: MissingPart[];
}

export interface SeriesHistory {
  steps: number[];
  n_layers_plus_one: number;
  values_f32: string;
}

export interface InnovationHistory {
  steps: number[];
  values_f32: string;
  ratio_f32: string;
}

/** `block` is null where the batch's own input moved. */
export interface Departure {
  stack: string;
  block: number | null;
  quantity: string;
  step: number;
  text: string;
}

export interface ScalarHistory {
  steps: number[];
  values_f32: Record<string, string>;
}

export interface Alert {
  id: string;
  run_id: string;
  run_name: string;
  severity: "info" | "warning" | "critical";
  title: string;
  status: string;
  step: number;
  opened_at: number;
  incident?: string | null;
}

/** An incident as a live message has it; `step` is that of its root. */
export interface IncidentHeadline {
  id: string;
  run_id: string;
  run_name: string;
  severity: "info" | "warning" | "critical";
  status: string;
  title: string;
  stack: string;
  first_layer: number | null;
  last_layer: number | null;
  step: number;
  opened_at: number;
}

export interface Incident extends IncidentHeadline {
  rule: string;
  note: string;
  alerts: Alert[];
}

export interface Limit {
  most: number;
  window_s: number;
}

export interface Channel {
  id: string;
  name: string;
  source: "settings" | "api";
  kind: "webhook" | "apprise" | null;
  address: string;
  project: string | null;
  enabled: boolean;
  signed: boolean;
  title_template: string;
  text_template: string;
  limit: Limit | null;
  problem: string;
}

export interface ChannelList {
  channels: Channel[];
  template_names: string[];
  default_title: string;
  default_text: string;
}

export interface Route {
  id: string;
  channel: string;
  project: string | null;
  tag: string | null;
  severity: string;
}

export interface Delivery {
  id: string;
  target: string;
  kind: string;
  severity: string;
  title: string;
  text: string;
  status: "pending" | "delivered" | "digested" | "dead";
  attempts: number;
  answer: string;
  last_error: string;
  held: boolean;
  digest: string | null;
  created_at: number;
  next_attempt_at: number | null;
  ended_at: number | null;
}

export interface Silence {
  id: string;
  run: string | null;
  run_name: string | null;
  rule: string | null;
  tag: string | null;
  project: string | null;
  incident: string | null;
  incident_title: string | null;
  note: string;
  until: number;
}

export interface RunSummary {
  id: string;
  name: string;
  status: string;
}

export interface Rule {
  id: string;
  name: string;
  enabled: boolean;
  series: string | null;
  layers: { first: number; last: number } | null;
  condition: {
    kind: string;
    value?: number;
    factor?: number;
    gap?: number;
    window?: number;
    preset?: string;
  };
  for_samples: number;
  clear_samples: number;
  severity: string;
  advice: string;
  project: string | null;
  tags: string[];
}

export interface Preset {
  name: string;
  title: string;
}

export interface Firing {
  step: number;
  resolved: number | null;
  stack: string;
  first_layer: number | null;
  last_layer: number | null;
  measured: number | string | null;
  message: string;
}

export interface Trial {
  run_id: string;
  judged: number;
  first_step: number | null;
  last_step: number | null;
  truncated: boolean;
  firings: Firing[];
  note: string;
}

// Live messages; `reconnected` is the connection's own.

export interface FrameMessage {
  type: "frame";
  run: string;
  step: number;
  series_f32: Record<string, string>;
  scalars: Record<string, ApiNumber>;
  skipped: number;
}

export type LiveMessage =
  | { type: "hello" | "ping" | "reconnected" }
  | { type: "prediction"; run: string }
  | { type: "scalars"; run: string; first: number }
  | { type: "run"; run: RunSummary }
  | { type: "alert"; alert: Alert }
  | { type: "incident"; incident: IncidentHeadline }
  | FrameMessage;

// The page's own data: dashboard/page_data.py.

export interface RunData {
  id: string;
  name: string;
  colour: string;
  status: string;
  stack: string;
  stacks: Record<string, object>;
  last_seen: number;
}

export interface PageData {
  page: "runs" | "run" | "compare" | "alerts" | "settings";
  stack?: string;
  charts: Record<QuantityName, string>;
  scalars: string;
  heatmaps: string[];
  runs: RunData[];
}

// What the scripts hold.

/** The curve one block ahead at a step and the edges of its band, of shape (layers + 1,) or empty. */
export interface AheadCurve {
  ahead: Float32Array;
  low: Float32Array;
  high: Float32Array;
}

/** A prediction from the weights of a step. */
export interface DatedCurve {
  step: number;
  curve: Float32Array;
}

/** The predicted curves of a quantity; `today` holds those of later revisions, ascending by step; `missing` says why (part of) `predicted` is absent. */
export interface PredictedCurves {
  predicted: Float32Array;
  low: Float32Array;
  high: Float32Array;
  today: DatedCurve[];
  missing: string;
}

export type Predictions = Record<QuantityName, PredictedCurves>;

export interface Trace {
  meta: string;
  x: ArrayLike<number>;
}

/** An element in which Plotly has drawn a chart. */
export interface Chart extends HTMLElement {
  data: Trace[];
  layout: Record<string, { range: [number, number] }>;
  _fullLayout: { _size: { l: number; t: number; w: number; h: number } };
  on(event: string, listener: () => void): void;
  removeAllListeners(event: string): void;
}

declare global {
  const Plotly: {
    restyle(chart: Chart, data: object, traces: number[]): void;
    update(chart: Chart, data: object, layout: object, traces?: number[]): void;
  };
  interface Window {
    dash_clientside: { set_props(id: string, props: object): void };
  }
}
