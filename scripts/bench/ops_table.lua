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

local function beside(peer)
  return peer and ("%9.2f (%.2f)"):format(peer.value, peer.ratio) or ""
end

local losers = 0
print "Ratios above 1: nnlua is faster; in brackets after PyTorch's their quartiles.\n"
local layout = "%-26s %12s %12s   %-23s %-18s %s"
print(layout:format("op, us", "nnlua", "PyTorch", "ratio", "   oneDNN (ratio)", " OpenBLAS (ratio)"))
for _, row in ipairs(rows) do
  local torch, spread, time = row.peers.torch, "-", "-"
  if torch then
    time, spread = ("%.2f"):format(torch.value), ("%6.2f (%.2f to %.2f)"):format(torch.ratio, torch.low, torch.high)
    if torch.ratio < 1 / 1.1 then losers = losers + 1 end
  end
  print((layout:format(row.name, ("%.2f"):format(row.value), time, spread, beside(row.peers.onednn),
    beside(row.peers.openblas)):gsub("%s+$", "")))
end
print(("\n%d of %d are slower than PyTorch's by more than 10 %%"):format(losers, #rows))
