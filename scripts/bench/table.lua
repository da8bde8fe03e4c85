-- The table of scripts/bench/run.sh: medians of the rounds, and ratios round by round (above 1: nnlua is faster).
local folder = arg[1]

local function read(name)
  local rows, order = {}, {}
  local file = io.open(folder .. "/" .. name .. ".tsv")
  if not file then return rows, order end
  for line in file:lines() do
    local workload, value, unit = line:match "^(%S+)\t(%S+)\t(%S+)"
    if not rows[workload] then
      rows[workload] = {unit = unit}
      order[#order + 1] = workload
    end
    table.insert(rows[workload], tonumber(value))
  end
  file:close()
  return rows, order
end

local function median(list)
  local sorted = table.move(list, 1, #list, 1, {})
  table.sort(sorted)
  return sorted[(#sorted + 1) // 2], sorted[1], sorted[#sorted]
end

local ours, order = read "ours"
local layout = "%-22s %-10s %12s   %-34s %s"
print(layout:format("workload", "unit", "nnlua", "beside NumPy (ratio)", "beside PyTorch (ratio)"))
for _, name in ipairs(order) do
  local cells = {}
  for i, peer in ipairs {"numpy", "torch"} do
    local theirs = read(peer)[name]
    cells[i] = "-"
    if theirs then
      local ratios = {}
      for round = 1, math.min(#theirs, #ours[name]) do
        local ratio = ours[name][round] / theirs[round]
        ratios[round] = ours[name].unit == "us" and 1 / ratio or ratio
      end
      local middle, low, high = median(ratios)
      cells[i] = ("%.2f (%.2f x, %.2f to %.2f)"):format(median(theirs), middle, low, high)
    end
  end
  print(("%-22s %-10s %12.2f   %-34s %s"):format(name, ours[name].unit, (median(ours[name])), cells[1], cells[2]))
end
