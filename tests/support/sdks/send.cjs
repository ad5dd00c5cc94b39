// Reads a URL and events as JSON on standard input, sends each with the official library for JavaScript, and prints the answers.
const { CloudEvent, HTTP, Mode, emitterFor, httpTransport } = require("cloudevents");

const { url, events } = JSON.parse(require("fs").readFileSync(0, "utf8"));

async function send({ mode, attributes, data, base64 }) {
  const bytes = base64 === undefined ? data : new Uint8Array(Buffer.from(base64, "base64"));
  const event = new CloudEvent({ ...attributes, data: bytes });
  if (mode !== "batch") {
    return (await emitterFor(httpTransport(url), { mode: Mode[mode.toUpperCase()] })(event)).body;
  }
  // The library has no function for batches.
  const headers = { "content-type": "application/cloudevents-batch+json" };
  return (await fetch(url, { method: "POST", headers, body: `[${HTTP.structured(event).body}]` })).text();
}

(async () => {
  const answers = [];
  for (const event of events) answers.push(JSON.parse(await send(event)));
  console.log(JSON.stringify(answers));
})();
