-- Prints what benches/compare/run reads: one line, microseconds. `post BODY`: requests are POSTs with this
-- JSON. `tokens FILE`: a file of bearer tokens, one a line; each request carries the next of them.
local requests, at = {}, 0

function init(args)
  if args[1] == "post" then
    wrk.method, wrk.body = "POST", args[2]
    wrk.headers["Content-Type"] = "application/json"
    local only = wrk.format()
    request = function() return only end
  end
  if args[1] ~= "tokens" then return end
  for token in io.lines(args[2]) do
    wrk.headers["Authorization"] = "Bearer " .. token
    requests[#requests + 1] = wrk.format()
  end
  -- Made beforehand, so that the load generator does no more than pick one.
  request = function()
    at = at % #requests + 1
    return requests[at]
  end
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
