-- A program: makes and drops tensors without a word to the collector, and prints "seconds fill_seconds megabytes":
-- the time it took, the time of filling one buffer as often, and the most memory that was resident.
--   dropped.lua large|small incremental|generational
local nn = require "nnlua"
local what, mode = arg[1], arg[2]

local function resident()
  for line in io.lines "/proc/self/status" do
    local kilobytes = line:match "^VmHWM:%s*(%d+)"
    if kilobytes then return tonumber(kilobytes) // 1024 end
  end
end

-- large: 3 000 of 4 MB, nothing kept.  small: 20 000 of 200 kB, the last forty kept, beside 20 MB of Lua's own.
local large = what == "large"
local count, elements, kept = large and 3000 or 20000, large and 1000000 or 50000, large and 1 or 40

collectgarbage(mode)
local heap = {}
while not large and collectgarbage "count" < 20 * 1024 do heap[#heap + 1] = {#heap, tostring(#heap)} end
collectgarbage()

local buffer = nn.full({elements}, 0)
local start = nn.clock()
for i = 1, count do buffer:fill_(i) end
local fill = nn.clock() - start

local ring = {}
start = nn.clock()
for i = 1, count do ring[i % kept] = nn.full({elements}, i) end
local seconds = nn.clock() - start
for i = count - kept + 1, count do assert(ring[i % kept][elements]:item() == i) end
print(("%.4f %.4f %d"):format(seconds, fill, resident()))
