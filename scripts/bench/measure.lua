--- What the benchmarks share: their options, rates, peak memory, and which modules this build has.
local nn = require "nnlua"

local measure = {seconds = 3}

--- Reads --seconds S, --threads N and --list (a flag); what is left are names.
---@param list string[]
---@return string[] names
function measure.arguments(list)
  local names, i = {}, 1
  while list[i] do
    if list[i] == "--seconds" then
      measure.seconds, i = assert(tonumber(list[i + 1]), "--seconds wants a number"), i + 1
    elseif list[i] == "--threads" then
      nn.set_threads(math.tointeger(list[i + 1]))
      i = i + 1
    elseif list[i] == "--list" then
      measure.list = true
    else
      names[#names + 1] = list[i]
    end
    i = i + 1
  end
  return names
end

--- Steps a second: the median of five windows after a warm-up, and the best of them.
---@param step function
---@param warmup integer? steps that do not count
---@param least integer? steps that a window has at least
---@return number median, number best
function measure.rate(step, warmup, least)
  for _ = 1, warmup or 5 do step() end
  local start = nn.clock()
  step()
  local count = math.max(least or 3, math.floor(measure.seconds / 5 / math.max(nn.clock() - start, 1e-6)))
  local rates = {}
  for window = 1, 5 do
    start = nn.clock()
    for _ = 1, count do step() end
    rates[window] = count / (nn.clock() - start)
  end
  table.sort(rates)
  return rates[3], rates[5]
end

--- The most that this process has had resident, in MB; nil where the system does not say.
---@return number?
function measure.peak_memory()
  local file = io.open "/proc/self/status"
  if not file then return nil end
  local size = file:read("a"):match "VmHWM:%s*(%d+)"
  file:close()
  return size and size / 1024
end

--- The first of these modules and functions that the build lacks.
---@param names string[]
---@return string?
function measure.lacks(names)
  for _, name in ipairs(names) do
    if rawget(nn, name) == nil and rawget(nn.F, name) == nil then return name end
  end
end

--- The median, the least and the greatest of a list of numbers.
---@param list number[]
function measure.median(list)
  local sorted = table.move(list, 1, #list, 1, {})
  table.sort(sorted)
  local middle = (sorted[(#sorted + 1) // 2] + sorted[#sorted // 2 + 1]) / 2
  return middle, sorted[1], sorted[#sorted]
end

return measure
