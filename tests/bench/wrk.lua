-- Sends the requests of a file in turn (complete requests, separated by NUL), and prints the counts of wrk.
local requests, turn = {}, 0

function init(args)
  for each in io.open(args[1], "rb"):read("*a"):gmatch("%Z+") do requests[#requests + 1] = each end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.status + errors.connect + errors.read + errors.write + errors.timeout
  local p50, p99 = latency:percentile(50), latency:percentile(99)
  print(string.format("RESULT %d %d %d %d %d", summary.requests, summary.duration, p50, p99, failed))
end
