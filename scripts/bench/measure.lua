--- What the benchmarks share: their options, rates, peak memory, and which modules this build has.
local nn = require "nnlua"

local measure = {seconds = 3}

--- What a benchmark repeats.
---@class measure.Work
---@field step function
---@field unit string "us": microseconds of one; anything else: how many in a second
---@field count number? how many of what the unit counts are in a step (default 1)
---@field scope (fun(f: function): any)? calls a function in whose course the steps run

--- Reads --seconds S, --threads N, and the flags --list and --serve; what is left are names.
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
    elseif list[i] == "--list" or list[i] == "--serve" then
      measure[list[i]:sub(3)] = true
    else
      names[#names + 1] = list[i]
    end
    i = i + 1
  end
  return names
end

-- Steps a second over so many of them.
local function window(step, count)
  local start = nn.clock()
  for _ = 1, count do step() end
  return count / math.max(nn.clock() - start, 1e-9)
end

-- A first guess at the rate, after some steps that do not count.
local function warm(step, steps)
  for _ = 1, steps do step() end
  return window(step, 1)
end

--- Steps a second: the median of five windows after a warm-up, and the best of them.
---@param step function
---@param warmup integer? steps that do not count
---@param least integer? steps that a window has at least
---@return number median, number best
function measure.rate(step, warmup, least)
  local count = math.max(least or 3, math.floor(measure.seconds / 5 * warm(step, warmup or 5)))
  local rates = {}
  for i = 1, 5 do rates[i] = window(step, count) end
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

-- A line of four columns: name, figure, unit and the process's peak memory; of two where the work is lacking.
local function show(name, work, rate)
  if work then
    local count = (work.count or 1) * rate
    local figure, memory = work.unit == "us" and 1e6 / count or count, measure.peak_memory()
    print(("%s\t%.3f\t%s\t%s"):format(name, figure, work.unit, memory and ("%.1f"):format(memory) or ""))
  else
    print(name .. "\t-")
  end
  io.stdout:flush()
end

local function plain(f) return f() end

--- Answers each name on standard input with what one window gives: see sides.sh.
---@param prepare fun(name: string): measure.Work?
function measure.answer(prepare)
  local name, work, rate
  for line in io.lines() do
    if line ~= name then name, work, rate = line, prepare(line), nil end
    if work then
      (work.scope or plain)(function()
        rate = rate or warm(work.step, 5)
        local count = math.max(1, math.floor(measure.seconds * rate))
        if count > 10 then work.step() end -- caches and threads come back
        rate = window(work.step, count)
      end)
    end
    show(name, work, rate)
  end
end

--- Prints the figures of these names, or answers standard input with --serve, or prints the names with --list.
---@param names string[]
---@param prepare fun(name: string): measure.Work?
function measure.run(names, prepare)
  if measure.serve then return measure.answer(prepare) end
  for _, name in ipairs(names) do
    local work = not measure.list and prepare(name)
    if work then
      show(name, work, (work.scope or plain)(function() return (measure.rate(work.step)) end))
    elseif measure.list then
      print(name)
    end
  end
end

--- The first of these modules and functions that the build lacks.
---@param names string[]
---@return string?
function measure.lacks(names)
  for _, name in ipairs(names) do
    if rawget(nn, name) == nil and rawget(nn.F, name) == nil then return name end
  end
end

--- The median of a list of numbers, and its quartiles.
---@param list number[]
---@return number median, number low, number high
function measure.median(list)
  local sorted = table.move(list, 1, #list, 1, {})
  table.sort(sorted)
  local function at(part) -- between neighbours in proportion
    local place = 1 + part * (#sorted - 1)
    local low = math.floor(place)
    return sorted[low] + (place - low) * ((sorted[low + 1] or sorted[low]) - sorted[low])
  end
  return at(0.5), at(0.25), at(0.75)
end

return measure
