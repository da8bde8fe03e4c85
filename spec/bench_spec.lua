-- The benchmarks run, and count right; how long things take is none of a spec's business.
local helpers = require "spec.helpers"

local folder = os.tmpname()
os.remove(folder)
os.execute("mkdir '" .. folder .. "'")
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
  it("prints name, figure, unit and memory of the workloads that are named", function()
    local out = bench("workloads.lua", "--seconds", "0.001", "seed-2-3-1", "mlp-infer-b1")
    assert.truthy(out:find "^seed%-2%-3%-1\t[%d.]+\tepochs/s\t[%d.]*\n")
    assert.truthy(out:find "\nmlp%-infer%-b1\t[%d.]+\tus\t[%d.]*\n")
    assert.falsy(out:find "door")
  end)

  it("answers each name on standard input, so that sides take turns", function()
    write("names", "door-add-4", "door-add-4", "mlp-infer-b1")
    local status, out, err = helpers.nnlua({"scripts/bench/workloads.lua", "--serve", "--seconds", "0.001"},
      {input = folder .. "/names"})
    assert.equal(0, status, err)
    local names = {}
    for name in out:gmatch "([^\t\n]+)\t[%d.]+\tus\t[%d.]*\n" do names[#names + 1] = name end
    assert.same({"door-add-4", "door-add-4", "mlp-infer-b1"}, names)
  end)

  it("names the workloads there are when asked for another", function()
    local status, _, err = helpers.nnlua {"scripts/bench/workloads.lua", "mlp"}
    assert.equal(1, status)
    assert.truthy(err:find("there is no workload 'mlp'; there are seed-2-3-1-formulas", 1, true), err)
  end)

  it("lists what would run", function()
    assert.equal("mlp-train-b64\ndoor-add-4\n", (bench("workloads.lua", "--list", "door-add-4", "mlp-train-b64")))
  end)
end)

describe("ops.lua", function()
  it("prints the time of ops whose names begin as asked for", function()
    local out, err = bench("ops.lua", "--seconds", "0.001", "softmax 64", "argmax", "bce", "Adam")
    local names = {}
    for name in out:gmatch "([^\t\n]+)\t[%d.]+\tus\t[%d.]*\n" do names[#names + 1] = name end
    assert.same({"argmax 64x10", "softmax 64x10", "bce with logits", "Adam", "AdamW"}, names)
    assert.equal("", err)
  end)
end)

describe("the table of results", function()
  local turns = {
    "0 ours mlp-train-b64 1 samples/s 90", -- getting ready does not count
    "0 peak mlp-train-b64 1 GFLOP/s",
    "1 numpy mlp-train-b64 -",
  }
  for round, values in ipairs {{40000, 10000, 50, 50}, {30000, 20000, 80, 40}, {50000, 25000, 60, 90}} do
    local train, their_train, infer, their_infer = table.unpack(values)
    for _, turn in ipairs {
      "peak mlp-train-b64 100 GFLOP/s", ("ours mlp-train-b64 %d samples/s 100"):format(train),
      ("torch mlp-train-b64 %d samples/s 700"):format(their_train),
      ("peak mlp-infer-b1 %d GFLOP/s"):format(47 * round), ("ours mlp-infer-b1 %d us 20"):format(infer),
      ("torch mlp-infer-b1 %d us"):format(their_infer),
    } do turns[#turns + 1] = round .. " " .. turn end
  end
  write("facts.tsv", "processor some x", "isa base x", "threads 2 x", "rounds 3 x", "seconds 1 s")
  write("turns.tsv", table.unpack(turns))

  it("has ratios taken round by round, above 1 where nnlua is faster, with quartiles", function()
    local out = bench("table.lua", folder)
    assert.truthy(out:find("20 000: 2.00 (1.75 to 3.00)", 1, true), out) -- of 4, 1.5 and 2
    assert.truthy(out:find("50.0: 1.00 (0.75 to 1.25)", 1, true), out) -- of 1, 0.5 and 1.5
    assert.falsy(out:find("NumPy", 1, true))
  end)

  it("has parts of the GEMM peak, measured beside each round", function()
    local out = bench("table.lua", folder)
    assert.truthy(out:find("40 000 | 40 % ", 1, true), out) -- 40000 samples/s of 1.0 MFLOP, of 100 GFLOP/s
    -- 0.47 MFLOP in 50, 80, 60 us, of 47, 94, 141 GFLOP/s: 20, 6.25 and 5.6 %.
    assert.truthy(out:find "| us +| 60.0 +| 6 %% ", out)
  end)

  it("has the peak memory of each side", function()
    assert.truthy(bench("table.lua", folder):find "| mlp%-train%-b64 +| 100 +| 700 +|")
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
