-- The table of ops.sh: losers first.
--
--   nnlua scripts/bench/ops_table.lua FOLDER
local results = dofile((arg[0]:match "^(.*/)" or "") .. "results.lua")

local rows = results.read(assert(arg[1], "which folder?")).workloads
local function ratio(row) return row.peers.torch and row.peers.torch.ratio or math.huge end
table.sort(rows, function(a, b)
  if ratio(a) ~= ratio(b) then return ratio(a) < ratio(b) end
  return a.name < b.name
end)

local losers = 0
print(("%-26s %12s %12s   %s"):format("op, us", "nnlua", "PyTorch", "ratio (spread); above 1 nnlua is faster"))
for _, row in ipairs(rows) do
  local torch = row.peers.torch
  local beside = "-"
  if torch then
    beside = ("%12.2f   %6.2f (%.2f to %.2f)"):format(torch.value, torch.ratio, torch.low, torch.high)
    if torch.ratio < 1 / 1.1 then losers = losers + 1 end
  end
  print(("%-26s %12.2f %s"):format(row.name, row.value, beside))
end
print(("\n%d of %d are slower than PyTorch's by more than 10 %%"):format(losers, #rows))
