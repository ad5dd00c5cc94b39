-- For wrk: requests with events of their own. Arguments after --: a prefix of ids, the events in a request, a token.

local number_of_threads = 0
local threads = {}

function setup(thread)
   thread:set("number", number_of_threads)
   number_of_threads = number_of_threads + 1
   table.insert(threads, thread)
end

function init(args)
   prefix = args[1] .. "-" .. number .. "-"
   batch = tonumber(args[2])
   headers = {
      ["Authorization"] = "Bearer " .. args[3],
      ["Content-Type"] = batch == 1 and "application/cloudevents+json" or "application/cloudevents-batch+json",
   }
   note = string.rep("x", 230)
   events, accepted, refused, failed = 0, 0, 0, 0
end

local function event()
   events = events + 1
   return '{"specversion":"1.0","id":"' .. prefix .. events .. '","type":"com.example.order.paid",'
      .. '"source":"https://shop.example.com/orders","data":{"order":' .. events
      .. ',"customer":{"id":4711,"name":"Example","vip":false},"note":"' .. note .. '"}}'
end

function request()
   if batch == 1 then return wrk.format("POST", "/events", headers, event()) end
   local all = {}
   for i = 1, batch do all[i] = event() end
   return wrk.format("POST", "/events", headers, "[" .. table.concat(all, ",") .. "]")
end

function response(status, headers, body)
   if status == 202 then accepted = accepted + 1
   elseif status == 503 and headers["retry-after"] then refused = refused + 1
   else failed = failed + 1 end
end

function done(summary, latency, requests)
   local sums = { accepted = 0, refused = 0, failed = 0 }
   for _, thread in ipairs(threads) do
      for name in pairs(sums) do sums[name] = sums[name] + thread:get(name) end
   end
   local errors = summary.errors
   sums.failed = sums.failed + errors.connect + errors.read + errors.write + errors.timeout
   io.write(string.format(
      '\n{"accepted": %d, "refused": %d, "failed": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f}\n',
      sums.accepted, sums.refused, sums.failed, summary.duration / 1e6, latency:percentile(50) / 1e3,
      latency:percentile(99) / 1e3))
end
