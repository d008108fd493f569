import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { query, setQuery } from "../../../dashboard/assets/js/address.js";
import {
  getAlerts,
  getHistory,
  getRevisions,
  getScalars,
  prefetchPage,
} from "../../../dashboard/assets/js/api.js";

let requests;

function answer(respond) {
  globalThis.fetch = async (url) => {
    requests.push(url);
    return { ok: true, status: 200, json: async () => respond(url) };
  };
}

function open(address) {
  globalThis.location = new URL(address, "http://server");
  globalThis.history = {
    state: null,
    replaceState: (_state, _title, next) => {
      globalThis.location = new URL(next, "http://server");
    },
  };
}

beforeEach(() => {
  requests = [];
});

test("a run page fetches its series before it is there, and each answer is used once", async () => {
  const revisions = [{ stacks: { encoder: {}, decoder: {} } }];
  answer((url) => (url.endsWith("/predictions") ? { revisions } : { steps: [] }));
  open("/runs/abc?stack=encoder");

  prefetchPage();
  await new Promise(setImmediate);
  assert.equal(requests.length, 5);
  await getRevisions("abc");
  await getScalars("abc", -1);
  await getHistory("abc", "encoder", "variance", 0, 250);

  assert.equal(requests.length, 5);
  await getRevisions("abc");
  assert.equal(requests.length, 6);
});

test("a comparison fetches at most four runs", async () => {
  answer(() => ({ revisions: [] }));
  open("/compare?runs=a,b,c,d,e");

  prefetchPage();
  await new Promise(setImmediate);

  assert.equal(requests.length, 8);
});

test("alerts are asked for by run and by status", async () => {
  answer(() => ({ alerts: [] }));

  await getAlerts({ run: "abc" });
  await getAlerts();

  assert.deepEqual(requests, ["/api/v1/alerts?run=abc&limit=100", "/api/v1/alerts?limit=100"]);
});

test("a refusal is an error in the server's words", async () => {
  const body = { error: { message: "there is no such run" } };
  globalThis.fetch = async () => ({ ok: false, status: 404, json: async () => body });

  await assert.rejects(getRevisions("none"), { message: "there is no such run", status: 404 });
});

test("a choice goes into the address and out again", () => {
  open("/compare?runs=a,b");

  setQuery("step", 12);
  assert.equal(location.search, "?runs=a,b&step=12");
  assert.equal(query("step"), "12");
  setQuery("step", null);

  assert.equal(location.search, "?runs=a,b");
});

/** A server that is busy so often, and then answers. */
function busy(times, { after = "0.001" } = {}) {
  globalThis.fetch = async (url) => {
    requests.push(url);
    const isBusy = requests.length <= times;
    return {
      ok: !isBusy,
      status: isBusy ? 503 : 200,
      headers: new Headers({ "Retry-After": after }),
      json: async () => (isBusy ? { error: { message: "busy" } } : { alerts: [] }),
    };
  };
}

test("a server that is busy for the moment is asked again", async () => {
  busy(3);

  assert.deepEqual(await getAlerts(), []);
  assert.equal(requests.length, 4);
});

test("a server that stays busy is told of in its own words", async () => {
  busy(100);

  await assert.rejects(getAlerts(), { message: "busy", status: 503 });
  assert.equal(requests.length, 6);
});
