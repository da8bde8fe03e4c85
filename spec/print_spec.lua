-- Tensors as text: print, tostring, "..".
local nn = require "nnlua"

local function prints(wanted, x) assert.equal(wanted, tostring(x)) end

local function lines_of(x)
  local lines = {}
  for line in (tostring(x) .. "\n"):gmatch "(.-)\n" do lines[#lines + 1] = line end
  return lines
end

describe("a tensor's text", function()
  it("of one value is that value", function()
    prints("3.5  [f32 0-d]", nn.tensor(3.5))
    prints("-7  [i64 0-d]", nn.tensor(-7, "i64"))
    prints("true  [bool 0-d]", nn.tensor(true))
    prints("0.1  [f32 0-d]", nn.tensor(0.1))
    prints("0.1  [f64 0-d]", nn.tensor(0.1, "f64"))
    prints("1e+20  [f32 0-d]", nn.tensor(1e20))
    prints("nan  [f32 0-d]", nn.tensor(0 / 0):abs())
    prints("-inf  [f32 0-d]", nn.tensor(-math.huge))
  end)

  it("of no value names the shape", function()
    prints("{}  [f32 0]", nn.zeros(0))
    prints("{}  [i64 2x0x3]", nn.zeros(2, 0, 3, {dtype = "i64"}))
    prints("{}  [bool 0x1000000]", nn.zeros(0, 1000000, {dtype = "bool"}))
  end)

  it("aligns columns, also with negative numbers", function()
    prints("{{ 1.5000, -2.2500},\n {10.0000,  0.1250}}\n[f32 2x2]", nn.tensor({{1.5, -2.25}, {10, 0.125}}))
    prints("{{   1,  -20},\n {-300, 4000}}\n[i64 2x2]", nn.tensor({{1, -20}, {-300, 4000}}, "i64"))
    prints("{ true, false}\n[bool 2]", nn.tensor({true, false}))
    prints("{  0, 255}\n[u8 2]", nn.tensor({0, 255}, "u8"))
  end)

  it("shows floats that are whole with a bare point", function()
    prints("{1., 2., 3.}\n[f32 3]", nn.tensor({1, 2, 3}))
    prints("{-0.,  1.}\n[f32 2]", nn.tensor({-0.0, 1}))
  end)

  it("shows the largest integers exactly", function()
    prints("{ 9223372036854775807, -9223372036854775808}\n[i64 2]", nn.tensor({math.maxinteger, math.mininteger},
      "i64"))
  end)

  it("goes over to exponents where fixed digits would lie", function()
    prints("{1.0000e-05, 1.0000e+00, 1.0000e+03}\n[f32 3]", nn.tensor({1e-5, 1, 1000}):mul(1):clamp(1e-5, 1000))
    prints("{1.0000e-10, 1.0000e+10}\n[f32 2]", nn.tensor({1e-10, 1e10}))
    prints("{1.0000e-04, 2.0000e-04}\n[f32 2]", nn.tensor({1e-4, 2e-4}))
    prints("{1.0000e+20}\n[f32 1]", nn.tensor({1e20}))
    prints("{-1.7977e+308,  4.9407e-324}\n[f64 2]", nn.tensor({-1.7976931348623157e308, 5e-324}, "f64"))
  end)

  it("has NaN and infinities among numbers, and alone", function()
    prints("{1.5000,    inf,   -inf}\n[f32 3]", nn.tensor({1.5, 1 / 0, -1 / 0}))
    prints("{nan,  1.}\n[f32 2]", nn.tensor({0, 1}):log():sub(nn.tensor({-1 / 0, -1})))
    prints("{inf, inf}\n[f32 2]", nn.tensor({1 / 0, 1 / 0}))
  end)

  it("sets blocks of three and four dimensions apart", function()
    prints("{{{1, 2},\n  {3, 4}},\n\n {{5, 6},\n  {7, 8}}}\n[i64 2x2x2]", nn.arange(8):reshape(2, 2, 2))
    prints("{{{{1, 2}},\n\n  {{3, 4}}},\n\n {{{5, 6}},\n\n  {{7, 8}}}}\n[i64 2x2x1x2]", nn.arange(8):reshape(2, 2,
      1, 2))
  end)

  it("follows views", function()
    local x = nn.arange(6):reshape(2, 3)
    prints("{{1, 4},\n {2, 5},\n {3, 6}}\n[i64 3x2]", x:t())
    prints("{3, 6}\n[i64 2]", x[{{}, 3}])
    prints("{{7.},\n {7.}}\n[f32 2x1]", nn.tensor(7):expand(2, 1))
  end)

  it("says that a gradient is asked for", function()
    prints("{1., 2.}\n[f32 2, requires_grad]", nn.tensor({1, 2}, {requires_grad = true}))
    prints("4  [f32 0-d, requires_grad]", nn.tensor(2, {requires_grad = true}) * 2)
  end)

  it("breaks long rows without blanks at the ends of lines", function()
    local lines = lines_of(nn.linspace(-1, 1, 60))
    assert.is_true(#lines > 4)
    for _, line in ipairs(lines) do
      assert.is_true(#line <= 101, line)
      assert.is_nil(line:find " $")
    end
  end)

  it("leaves the middle of large ones out", function()
    prints("{   1,    2,    3, ..., 1998, 1999, 2000}\n[i64 2000]", nn.arange(2000))
    prints("{{0., 0., 0., ..., 0., 0., 0.},\n {0., 0., 0., ..., 0., 0., 0.}}\n[f32 2x600]", nn.zeros(2, 600))
    prints("{{0., 0.},\n {0., 0.},\n {0., 0.},\n ...,\n {0., 0.},\n {0., 0.},\n {0., 0.}}\n[f32 800x2]",
      nn.zeros(800, 2))
    assert.is_nil(tostring(nn.arange(1000)):find("...", 1, true))
  end)

  it("sets what is left out apart as other blocks are", function()
    assert.is_truthy(tostring(nn.zeros(20, 10, 10)):find("}},\n\n ...,\n\n {{", 1, true))
  end)

  it("stays short however many dimensions there are", function()
    assert.is_true(#tostring(nn.zeros(4, 4, 4, 4, 4, 4, 4, 4)) < 10000)
    assert.is_true(#tostring(nn.zeros(10, 10, 10, 10, 10)) < 10000)
  end)

  it("chooses digits by what is shown", function()
    local x = nn.zeros(5000)
    x[2500] = 1e-9
    prints("{0., 0., 0., ..., 0., 0., 0.}\n[f32 5000]", x)
  end)

  it("joins numbers of one element to strings", function()
    assert.equal("loss 0.25", "loss " .. nn.tensor(0.25))
    assert.equal("3 of 4", nn.tensor({3}, "i64") .. " of " .. nn.tensor(4, "i64"))
    assert.equal("true!", nn.tensor(true) .. "!")
  end)

  it("of a freed tensor says so", function()
    local x = nn.ones(2)
    x:free()
    assert.equal("freed tensor", tostring(x))
  end)
end)
