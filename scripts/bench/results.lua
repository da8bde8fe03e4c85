--- What run.sh measured, put together: medians, ratios round by round, parts of the GEMM peak.
local folder = arg[0]:match "^(.*/)" or ""
local median = dofile(folder .. "measure.lua").median

local results = {}

--- The sides beside ours, in the order of tables.
results.peers = {
  {"torch", "PyTorch"}, {"compile", "torch.compile"}, {"jax", "JAX jit"}, {"onnx", "ONNX Runtime"}, {"numpy", "NumPy"},
  {"onednn", "oneDNN"}, {"openblas", "OpenBLAS"}, -- of single ops
}

-- Floating-point operations that a sample or token costs, forward and backward where it is trained.
local flop = {
  ["mlp-train-b64"] = 1.0e6, ["lenet-train-b64"] = 2.3e6, ["cnn-train-b64"] = 72e6, ["resnet20-train-b64"] = 245e6,
  ["lstm-train-b32-t64"] = 6.4e6, ["gru-train-b32-t64"] = 4.9e6,
  ["gpt-train-b12-t64"] = 5.0e6, ["gpt-train-d384-b8-t256"] = 67e6,
  ["mlp-infer-b1"] = 0.47e6, ["lenet-infer-b1"] = 0.83e6, ["cnn-infer-b1"] = 24e6, ["resnet20-infer-b1"] = 82e6,
}

-- Calls each(name, value, unit) for the lines of a file; false if there is none.
local function lines(path, each)
  local file = io.open(path)
  if not file then return false end
  for line in file:lines() do
    local name, value, unit = line:match "^([^\t]*)\t([^\t]*)\t([^\t]*)"
    if name then each(name, tonumber(value) or value, unit) end
  end
  file:close()
  return true
end

local function read_facts(path)
  local facts = {}
  lines(path .. "/facts.tsv", function(name, value) facts[name] = value end)
  lines(path .. "/peak.tsv", function(name, value)
    name = "gemm " .. name
    facts[name] = math.max(facts[name] or 0, value)
  end)
  facts["gemm peak"] = math.max(facts["gemm own"] or 0, facts["gemm openblas"] or 0)
  return facts
end

-- side -> workload -> {round -> value}, the names in the order of our side, and their units.
local function read_rounds(path)
  local sides, names, units, round = {}, {}, {}, 1
  local function read(side)
    return lines(("%s/rounds/%d-%s.tsv"):format(path, round, side), function(name, value, unit)
      sides[side] = sides[side] or {}
      sides[side][name] = sides[side][name] or {}
      sides[side][name][round] = value
      if side == "ours" and not name:find "/" and not units[name] then names[#names + 1], units[name] = name, unit end
    end)
  end
  while read "ours" do
    for _, peer in ipairs(results.peers) do read(peer[1]) end
    round = round + 1
  end
  return sides, names, units, round - 1
end

local function values(rounds, count)
  local list = {}
  for round = 1, count do list[#list + 1] = rounds[round] end
  return list
end

-- A peer's figure beside ours: above 1 ours is faster.
local function compare(ours, theirs, unit, count)
  local ratios = {}
  for round = 1, count do
    local mine, other = ours[round], theirs[round]
    if mine and other then ratios[#ratios + 1] = unit == "us" and other / mine or mine / other end
  end
  if #ratios == 0 then return nil end
  local middle, low, high = median(ratios)
  return {value = median(values(theirs, count)), ratio = middle, low = low, high = high}
end

-- The part of the rate of matrix products that was measured beside each round, or of the best one.
local function part_of_peak(name, ours, peaks, unit, facts, count)
  local parts = {}
  for round = 1, count do
    local peak = peaks and peaks[round] or facts["gemm peak"]
    if ours[round] and peak > 0 then
      local rate = unit == "us" and 1e6 / ours[round] or ours[round]
      parts[#parts + 1] = rate * flop[name] / (1e9 * peak)
    end
  end
  return #parts > 0 and median(parts) or nil
end

--- facts and workloads of a folder that run.sh wrote.
---@param path string
---@return table
function results.read(path)
  local facts = read_facts(path)
  local sides, names, units, count = read_rounds(path)
  local workloads = {}
  for i, name in ipairs(names) do
    local ours, unit = sides.ours[name], units[name]
    local row = {name = name, unit = unit, value = median(values(ours, count)), peers = {}, memory = {}}
    if flop[name] then row.of_peak = part_of_peak(name, ours, sides.ours[name .. "/peak"], unit, facts, count) end
    for side, rows in pairs(sides) do
      if side ~= "ours" and rows[name] then row.peers[side] = compare(ours, rows[name], unit, count) end
      local memory = rows[name .. "/memory"]
      if memory then row.memory[side] = median(values(memory, count)) end
    end
    workloads[i] = row
  end
  return {facts = facts, workloads = workloads}
end

return results
