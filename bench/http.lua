-- wrk: one own-form event per request, each with an id of its own. Every thread of wrk runs a copy of this file.
local threads = 0
function setup(thread)
    threads = threads + 1
    thread:set("thread_id", threads)
end

local n = 0
local run = tostring(os.time())
local headers = {["Content-Type"] = "application/json", ["Authorization"] = "Bearer bench-secret"}
local at = os.date("!%Y-%m-%dT%H:%M:%SZ")
function request()
    n = n + 1
    local id = run .. "-" .. thread_id .. "-" .. n
    headers["Idempotency-Key"] = id
    return wrk.format("POST", nil, headers, '{"type":"message","id":"' .. id .. '","user_id":"user-' .. n % 1000 ..
        '","bot_name":"elena","role":"user","at":"' .. at ..
        '","content":"the garden behind the station is full of music again, did you see it?"}')
end

function done(summary, latency)
    local e = summary.errors
    io.write(string.format('{"requests":%d,"us":%d,"p50_us":%d,"p99_us":%d,"max_us":%d,"status":%d,"socket":%d}\n', summary.requests,
        summary.duration, latency:percentile(50), latency:percentile(99), latency.max, e.status, e.connect + e.read + e.write + e.timeout))
end
