// Stores events through `resonant serve`, with nothing but Node.js 18 or newer:
//
//     EVENTS_URL=http://127.0.0.1:8080 EVENTS_TOKEN=rsn_... node examples/producer.mjs

import { setTimeout as wait } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const SERVER = process.env.EVENTS_URL ?? "http://127.0.0.1:8080";
const TOKEN = process.env.EVENTS_TOKEN ?? "";
const TRY_AGAIN = [408, 429, 502, 503, 504];
const LONGEST_WAIT_SECONDS = 60;

/**
 * Store an event, and return its identity and its endpoints.
 *
 * The request is repeated until it is answered. Each repetition has the same id, so the event is stored once.
 */
export async function publish(event, { tries = 10 } = {}) {
  const body = JSON.stringify({ specversion: "1.0", ...event });
  for (let attempt = 1; ; attempt++) {
    const answer = await post(body).catch((error) => error);
    if (answer.status === 202) return (await answer.json()).events[0];
    if (answer.status && !TRY_AGAIN.includes(answer.status)) throw new Error(await answer.text());
    if (attempt === tries) throw new Error(`not stored after ${tries} tries`, { cause: answer });
    await wait(1000 * secondsToWait(answer, attempt));
  }
}

function post(body) {
  const headers = { authorization: `Bearer ${TOKEN}`, "content-type": "application/cloudevents+json" };
  return fetch(`${SERVER}/events`, { method: "POST", headers, body, signal: AbortSignal.timeout(30_000) });
}

/** Return the time that the server asks for; without one, a random time that grows with each attempt. */
function secondsToWait(answer, attempt) {
  const asked = Number(answer.headers?.get("retry-after"));
  return asked || Math.random() * Math.min(LONGEST_WAIT_SECONDS, 2 ** attempt);
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  // The id is made of the order's number: if this program is killed and started again, the event is still stored once.
  const order = { number: 42, total: "19.90" };
  const event = { id: `order-${order.number}-paid`, type: "com.example.order.paid", source: "/shop", data: order };
  const { id, duplicate, endpoints } = await publish(event);
  console.log(`${id} ${duplicate ? "was stored before" : "is stored"}, for ${endpoints.join(", ")}`);
}
