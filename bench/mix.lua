-- The arena's mix of requests, in turn.
local mix = { { 1, 3 }, { 5, 7 }, { 10, 2 }, { 15, 5 }, { 25, 4 }, { 40, 8 }, { 50, 6 } }
local requests, position = {}, 0

function init()
  for index, pair in ipairs(mix) do
    requests[index] = wrk.format("GET", ("/json/%d?m=%d"):format(pair[1], pair[2]))
  end
end

function request()
  position = position % #requests + 1
  return requests[position]
end
