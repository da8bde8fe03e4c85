-- The benchmarks run, and count right; how long things take is none of a spec's business.
local helpers = require "spec.helpers"

local folder = os.tmpname()
os.remove(folder)
os.execute("mkdir -p '" .. folder .. "/rounds'")
teardown(function() os.execute("rm -rf '" .. folder .. "'") end)

local function write(name, ...)
  local file = assert(io.open(folder .. "/" .. name, "w"))
  for _, line in ipairs {...} do file:write((line:gsub(" ", "\t")), "\n") end
  file:close()
end

local function bench(...)
  local status, out, err = helpers.nnlua {"scripts/bench/" .. (...), select(2, ...)}
  assert.equal(0, status, err)
  return out, err
end

describe("workloads.lua", function()
  it("prints name, value and unit of the workloads that are named", function()
    local out = bench("workloads.lua", "--seconds", "0.001", "seed-2-3-1", "mlp-infer-b1")
    assert.truthy(out:find "^seed%-2%-3%-1\t[%d.]+\tepochs/s\n")
    assert.truthy(out:find "\nmlp%-infer%-b1\t[%d.]+\tus\n")
    assert.falsy(out:find "door")
  end)

  it("lists what would run", function()
    assert.equal("mlp-train-b64\ndoor-add-4\n", (bench("workloads.lua", "--list", "door-add-4", "mlp-train-b64")))
  end)
end)

describe("ops.lua", function()
  it("prints the time of ops whose names begin as asked for", function()
    local out, err = bench("ops.lua", "--seconds", "0.001", "softmax 64", "argmax", "bce", "Adam")
    local names = {}
    for name in out:gmatch "([^\t\n]+)\t[%d.]+\tus\n" do names[#names + 1] = name end
    assert.same({"argmax 64x10", "softmax 64x10", "bce with logits", "Adam", "AdamW"}, names)
    assert.equal("", err)
  end)
end)

describe("the table of results", function()
  write("facts.tsv", "processor some x", "isa base x", "threads 2 x", "rounds 3 x", "seconds 1 s")
  write("peak.tsv", "own 90 GFLOP/s", "openblas 100 GFLOP/s", "own 80 GFLOP/s")
  for round, values in ipairs {{40000, 10000, 50, 50}, {30000, 20000, 80, 40}, {50000, 25000, 60, 90}} do
    local train, their_train, infer, their_infer = table.unpack(values)
    write(("rounds/%d-ours.tsv"):format(round), "mlp-train-b64 " .. train .. " samples/s",
      "mlp-train-b64/memory 100 MB", "mlp-infer-b1 " .. infer .. " us",
      ("mlp-infer-b1/peak %d GFLOP/s"):format(47 * round))
    write(("rounds/%d-torch.tsv"):format(round), "mlp-train-b64 " .. their_train .. " samples/s",
      "mlp-infer-b1 " .. their_infer .. " us")
  end

  it("has ratios taken round by round, above 1 where nnlua is faster", function()
    local out = bench("table.lua", folder)
    assert.truthy(out:find("20 000: 2.00 (1.50 to 4.00)", 1, true), out)
    assert.truthy(out:find("50.0: 1.00 (0.50 to 1.50)", 1, true), out)
    assert.falsy(out:find("NumPy", 1, true))
  end)

  it("has parts of the better GEMM peak", function()
    local out = bench("table.lua", folder)
    assert.truthy(out:find("40 000 | 40 % ", 1, true), out) -- 40000 samples/s of 1.0 MFLOP, of 100 GFLOP/s
  end)

  it("takes them round by round where the peak was measured beside each", function()
    local out = bench("table.lua", folder)
    -- 0.47 MFLOP in 50, 80, 60 us, of 47, 94, 141 GFLOP/s: 20, 6.25 and 5.6 %.
    assert.truthy(out:find "| us +| 60.0 +| 6 %% ", out)
    assert.falsy(out:find("/peak", 1, true))
  end)

  it("leaves JSON and a chart", function()
    bench("table.lua", folder)
    local json, svg = helpers.slurp(folder .. "/results.json"), helpers.slurp(folder .. "/chart.svg")
    assert.truthy(json:find('"name": "mlp-train-b64"', 1, true))
    assert.truthy(svg:find("^<svg") and svg:find("</svg>\n$"))
  end)

  it("has losers first for ops", function()
    local out = bench("ops_table.lua", folder)
    assert.truthy(out:find "mlp%-infer.*mlp%-train", out)
  end)
end)
