// Reads requests as JSON on standard input, and prints what the official libraries for JavaScript make of each.
const { HTTP } = require("cloudevents");
const { Webhook } = require("standardwebhooks");

const requests = JSON.parse(require("fs").readFileSync(0, "utf8"));
console.log(JSON.stringify(requests.map(read)));

function read({ headers, body, isText, secret }) {
  const bytes = Buffer.from(body, "base64");
  const event = attempt(() => {
    const { data, ...attributes } = HTTP.toEvent({ headers, body: isText ? bytes.toString() : bytes });
    delete attributes.data_base64; // a second copy of the data
    return { attributes, data: ArrayBuffer.isView(data) ? { base64: Buffer.from(data).toString("base64") } : { value: data } };
  });
  const verified = attempt(() => {
    new Webhook(secret).verify(bytes, headers, { jsonParse: false });
    return true;
  });
  return { event, verified };
}

function attempt(action) {
  try {
    return action();
  } catch (error) {
    return { error: error.message };
  }
}
