-- POST /invoke with a JSON body of BODY_BYTES; the last line of the output is the summary as JSON.
local head, tail = '{"agent":"meta","task":"build","arguments":{"text":"', '"},"context":{}}'
local filler = tonumber(os.getenv("BODY_BYTES")) - #head - #tail

wrk.method = "POST"
wrk.body = head .. string.rep("a", filler) .. tail
wrk.headers["Content-Type"] = "application/json"

function done(summary)
  local e = summary.errors
  local errors = e.connect + e.read + e.write + e.status + e.timeout
  io.write(string.format('{"requests":%d,"seconds":%f,"errors":%d}\n', summary.requests, summary.duration / 1e6, errors))
end
