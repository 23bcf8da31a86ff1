-- What wrk sends, and what it reports as one line of JSON.
wrk.method = "POST"
wrk.body = '{"customer_id":"191"}'
wrk.headers["Content-Type"] = "application/json"

local pause = tonumber(os.getenv("PAUSE_MS") or "0")
if pause > 0 then
  function delay() return pause end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'figures {"requests":%d,"seconds":%.6f,"wrong_answers":%d,"errors":%d,"slow":%d,"p50":%.3f,"p99":%.3f}\n',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write, errors.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
