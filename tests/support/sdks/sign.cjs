// Reads webhooks as JSON on standard input; prints how the libraries of GitHub, Svix and Standard Webhooks sign and judge each.
const path = require("path");
const standard = require("standardwebhooks");

const webhooks = JSON.parse(require("fs").readFileSync(0, "utf8"));
main().then((found) => console.log(JSON.stringify(found)));

async function main() {
  const load = (...parts) => import(path.join(process.env.NODE_PATH, ...parts));
  const github = await load("@octokit", "webhooks", "dist-bundle", "index.js");
  const svix = await load("svix", "dist", "index.mjs");
  return Promise.all(webhooks.map((webhook) => read(webhook, github, svix)));
}

async function read({ verify, library, secret, at, headers, body }, github, svix) {
  const text = Buffer.from(body, "base64").toString();
  if (verify === "github") {
    const webhooks = new github.Webhooks({ secret });
    if (text === "" || !headers["x-hub-signature-256"]) return { signed: {}, verified: false }; // the library would throw
    const signed = { "x-hub-signature-256": await webhooks.sign(text) };
    return { signed, verified: await webhooks.verify(text, headers["x-hub-signature-256"]) };
  }
  const webhook = new (library === "svix" ? svix : standard).Webhook(secret);
  const signed = { "webhook-signature": webhook.sign(headers["webhook-id"], new Date(Number(at) * 1000), text) };
  try {
    webhook.verify(text, headers, { jsonParse: false });
    return { signed, verified: true };
  } catch {
    return { signed, verified: false };
  }
}
