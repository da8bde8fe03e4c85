-- The tables of run.sh, as Markdown; writes results.json and chart.svg beside what it reads.
--
--   nnlua scripts/bench/table.lua FOLDER
local folder = arg[0]:match "^(.*/)" or ""
local results = dofile(folder .. "results.lua")
local encode, chart = dofile(folder .. "json.lua"), dofile(folder .. "chart.lua")

local path = assert(arg[1], "which folder?")
local run = results.read(path)
local facts = run.facts

-- 12345.6 -> "12 346"; small numbers keep some decimals.
local function show(value)
  if value < 10 then return ("%.2f"):format(value) elseif value < 1000 then return ("%.1f"):format(value) end
  return (("%.0f"):format(value):reverse():gsub("(%d%d%d)", "%1 "):reverse():gsub("^ ", ""))
end

-- Rows of cells, the first being the heads.  A column in which nothing stands is left out.
local function print_table(rows)
  local widths, filled = {}, {}
  for r, row in ipairs(rows) do
    for c, cell in ipairs(row) do
      widths[c] = math.max(widths[c] or 0, utf8.len(cell))
      filled[c] = filled[c] or c == 1 or r > 1 and cell ~= ""
    end
  end
  for r, row in ipairs(rows) do
    local cells, rule = {}, {}
    for c, cell in ipairs(row) do
      if filled[c] then
        cells[#cells + 1] = cell .. (" "):rep(widths[c] - utf8.len(cell))
        rule[#rule + 1] = ("-"):rep(widths[c])
      end
    end
    print("| " .. table.concat(cells, " | ") .. " |")
    if r == 1 then print("|-" .. table.concat(rule, "-|-") .. "-|") end
  end
end

-- ---- figures and ratios
local head = {"workload", "unit", "nnlua", "of GEMM peak"}
for _, peer in ipairs(results.peers) do head[#head + 1] = peer[2] .. ": ratio (quartiles)" end
local rows = {head}
for _, workload in ipairs(run.workloads) do
  local row = {workload.name, workload.unit, show(workload.value),
    workload.of_peak and ("%.0f %%"):format(100 * workload.of_peak) or ""}
  for _, peer in ipairs(results.peers) do
    local other = workload.peers[peer[1]]
    row[#row + 1] = other
      and ("%s: %.2f (%.2f to %.2f)"):format(show(other.value), other.ratio, other.low, other.high) or ""
  end
  rows[#rows + 1] = row
end
print(("%s, %s, threads: %s; medians of %s rounds with turns of %s s, in brackets quartiles.\n"
  .. "A ratio above 1: nnlua is faster.\n"):format(
  facts.processor, facts.isa, facts.threads, math.tointeger(facts.rounds), facts.seconds))
print_table(rows)

-- ---- memory
head = {"peak resident MB", "nnlua"}
for _, peer in ipairs(results.peers) do head[#head + 1] = peer[2] end
rows = {head}
for _, workload in ipairs(run.workloads) do
  local memory = workload.memory
  local row = {workload.name, memory.ours and ("%.0f"):format(memory.ours) or ""}
  for _, peer in ipairs(results.peers) do
    row[#row + 1] = memory[peer[1]] and ("%.0f"):format(memory[peer[1]]) or ""
  end
  rows[#rows + 1] = row
end
print()
print_table(rows)

-- ---- the rest
if facts["gemm peak"] then
  print(("\nGEMM peak at 1024^3 with these threads, median of all rounds: %.0f GFLOP/s."):format(facts["gemm peak"]))
end
if facts.library then print(("libnnlua.so, stripped: %.2f MB."):format(facts.library / 1e6)) end
local starts = {}
for _, name in ipairs {"nnlua", "lua5.4", "import torch"} do
  local time = facts["startup " .. name]
  if time then starts[#starts + 1] = ("%s %s ms"):format(name, show(time)) end
end
print("Start-up, best of several: " .. table.concat(starts, ", ") .. ".")
if tonumber(facts["door from C"]) then print(("add of 4 elements from C: %.3f us."):format(facts["door from C"])) end

-- ---- files
local function write(name, text)
  local file = assert(io.open(path .. "/" .. name, "w"))
  file:write(text, "\n")
  file:close()
end
write("results.json", encode(run))
local drawn = chart(run, results.peers)
if drawn then write("chart.svg", drawn) end
