-- The arena's mix of requests, in turn; after `--`, the counts of those that are wanted.
local mix = { { 1, 3 }, { 5, 7 }, { 10, 2 }, { 15, 5 }, { 25, 4 }, { 40, 8 }, { 50, 6 } }
local requests, position = {}, 0

function init(counts)
  for _, target in ipairs(mix) do
    local wanted = #counts == 0
    for _, count in ipairs(counts) do
      wanted = wanted or tonumber(count) == target[1]
    end
    if wanted then
      requests[#requests + 1] = wrk.format("GET", ("/json/%d?m=%d"):format(target[1], target[2]))
    end
  end
end

function request()
  position = position % #requests + 1
  return requests[position]
end
