// Stores an event through `resonant serve`, with the CloudEvents SDK: npm install cloudevents

import { CloudEvent, HTTP } from "cloudevents";

const SERVER = process.env.EVENTS_URL ?? "http://127.0.0.1:8080";
const TOKEN = process.env.EVENTS_TOKEN ?? "";

const event = new CloudEvent({
  id: "order-43-paid",
  type: "com.example.order.paid",
  source: "/shop",
  data: { number: 43, total: "5.00" },
});
const { headers, body } = HTTP.binary(event); // or HTTP.structured(event)
const answer = await fetch(`${SERVER}/events`, {
  method: "POST",
  headers: { ...headers, authorization: `Bearer ${TOKEN}` },
  body,
});
console.log(answer.status, await answer.text());
