--- What run.sh and ops.sh measured, put together: medians, ratios between turns of one round, parts of the peak.
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

-- Calls each(column, column ...) for the lines of a file.
local function lines(path, each)
  local file = assert(io.open(path))
  for line in file:lines() do
    local columns = {}
    for column in (line .. "\t"):gmatch "([^\t]*)\t" do columns[#columns + 1] = column end
    each(table.unpack(columns))
  end
  file:close()
end

local function read_facts(path)
  local facts = {}
  local file = io.open(path)
  if not file then return facts end
  file:close()
  lines(path, function(name, value) facts[name] = tonumber(value) or value end)
  return facts
end

-- workload -> side -> {unit, memory, [round] = figure}, and the names in the order of the file; without round 0.
local function read_turns(path)
  local turns, names, rounds = {}, {}, 0
  lines(path, function(round, side, name, figure, unit, memory)
    round, figure = math.tointeger(round), tonumber(figure)
    if not turns[name] then turns[name], names[#names + 1] = {}, name end
    if not figure or round == 0 then return end
    local row = turns[name][side] or {}
    turns[name][side] = row
    row.unit, row.memory, row[round], rounds = unit, tonumber(memory), figure, math.max(rounds, round)
  end)
  return turns, names, rounds
end

-- f(round) for the rounds in which it gives a number.
local function collect(rounds, f)
  local list = {}
  for round = 1, rounds do list[#list + 1] = f(round) or nil end
  return list
end

local function middle(row, rounds) return (median(collect(rounds, function(round) return row[round] end))) end

-- A peer's figure beside ours: above 1 ours is faster.
local function compare(ours, theirs, rounds)
  local ratios = collect(rounds, function(round)
    local mine, other = ours[round], theirs[round]
    return mine and other and (ours.unit == "us" and other / mine or mine / other)
  end)
  if #ratios == 0 then return nil end
  local ratio, low, high = median(ratios)
  return {value = middle(theirs, rounds), ratio = ratio, low = low, high = high}
end

-- The part of the rate of matrix products measured beside each turn.
local function part_of_peak(cost, ours, peak, rounds)
  local parts = collect(rounds, function(round)
    local rate = ours[round] and (ours.unit == "us" and 1e6 / ours[round] or ours[round])
    return rate and peak[round] and rate * cost / (1e9 * peak[round])
  end)
  return #parts > 0 and median(parts) or nil
end

--- facts and workloads of a folder that run.sh or ops.sh wrote.
---@param path string
---@return table
function results.read(path)
  local facts = read_facts(path .. "/facts.tsv")
  local turns, names, rounds = read_turns(path .. "/turns.tsv")
  local workloads, peaks = {}, {}
  for _, name in ipairs(names) do
    local sides = turns[name]
    local ours, peak = sides.ours, sides.peak
    if peak then peaks[#peaks + 1] = middle(peak, rounds) end
    if ours then
      local row = {name = name, unit = ours.unit, value = middle(ours, rounds), peers = {}, memory = {}}
      if peak and flop[name] then row.of_peak = part_of_peak(flop[name], ours, peak, rounds) end
      for side, figures in pairs(sides) do
        if side ~= "peak" then row.memory[side] = figures.memory end
        if side ~= "peak" and side ~= "ours" then row.peers[side] = compare(ours, figures, rounds) end
      end
      workloads[#workloads + 1] = row
    end
  end
  if #peaks > 0 then facts["gemm peak"] = median(peaks) end
  return {facts = facts, workloads = workloads}
end

return results
