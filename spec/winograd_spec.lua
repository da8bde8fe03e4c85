-- nn.compile(f, {exact = false}): 3x3 convolutions by Winograd's tiles, held against the direct convolution in f64.
local helpers = require "spec.helpers"
local nn = helpers.nn

-- Of the largest sum of |x||w|: F(4x4, 3x3) loses some hundred ulp, where the direct sum loses a few.
local BOUND = 2e-5

local function double(t) return t and t:detach():to("f64") end

local function near(got, wanted, size, what)
  local far, most = (double(got) - wanted):abs():max():item(), size:max():item()
  assert(far <= BOUND * most, ("%s: %g of %g"):format(what, far, most))
end

local function count(f, word) return select(2, f:explain():gsub(word, "")) end

local function inexact(f) return nn.compile(f, {exact = false}) end

-- The result, and the gradient that dy gives the input.
local function both(x, w, b, dy, options)
  local y = nn.F.conv2d(x, w, b, options)
  return y:detach(), (nn.grad(y, {x}, dy))
end

local function needing_grad(x)
  x = x:detach()
  x.requires_grad = true
  return x
end

local threads = nn.threads()

local function with_threads(n, f, ...)
  nn.set_threads(n)
  local results = table.pack(f(...))
  nn.set_threads(threads)
  return table.unpack(results, 1, results.n)
end

describe("a convolution compiled with exact = false", function()
  local shapes = { -- N, in, out, height, width, padding
    {2, 16, 16, 32, 32, 1}, {4, 32, 32, 16, 16, "same"}, {16, 64, 64, 8, 8, 1}, {1, 32, 64, 26, 26, 0},
    {9, 17, 35, 7, 5, 1},
    {3, 20, 18, 13, 22, 2}, {6, 33, 16, 9, 10, {2, 0}}, {5, 19, 50, 15, 8, {0, 1}}, {40, 16, 24, 3, 3, 1},
    {7, 40, 16, 6, 11, "same"}, {1, 100, 90, 30, 30, 1},
  }
  for i, s in ipairs(shapes) do
    local n, from, to, height, width, padding = table.unpack(s)
    local name = ("%d x %d x %d x %d to %d channels"):format(n, from, height, width, to)
    it("gives results and the input's gradient within the bound, the same with one thread and two: " .. name, function()
      nn.manual_seed(i)
      local x, w = needing_grad(nn.randn(n, from, height, width)), nn.randn(to, from, 3, 3)
      local b = i % 2 == 0 and nn.randn(to) or nil
      local options = {padding = padding}
      local dy = nn.randn(nn.F.conv2d(x, w, b, options).shape)
      local f = inexact(function(...) return both(...) end)
      local g = inexact(function(input) return nn.F.conv2d(input, w, b, options) end)
      local y, dx = with_threads(1, f, x, w, b, dy, options)
      local fixed = with_threads(1, nn.no_grad, g, x)
      for _, k in ipairs {1, 2} do
        local again_y, again_dx = with_threads(k, f, x, w, b, dy, options)
        assert(again_y:equal(y) and again_dx:equal(dx) and with_threads(k, nn.no_grad, g, x):equal(fixed))
      end
      assert(fixed:equal(y))
      assert.equal(1, count(g, "conv2d_winograd"))
      assert.equal(1, count(f, "conv_grad_input_winograd"))
      local wanted_y, wanted_dx = both(needing_grad(double(x)), double(w), double(b), double(dy), options)
      local size, dsize = both(needing_grad(double(x):abs()), double(w):abs(), nil, double(dy):abs(), options)
      near(y, wanted_y, size, "result")
      near(dx, wanted_dx, dsize, "gradient")
    end)
  end

  it("does so however the input lies in memory", function()
    local x, w = nn.randn(2, 24, 14, 12), nn.randn(20, 24, 3, 3)
    local f = inexact(function(input) return nn.F.conv2d(input, w, {padding = 1}) end)
    local last = nn.F.conv2d(x, nn.eye(24):view(24, 24, 1, 1)) -- its channels together
    local wide = nn.zeros(2, 24, 14, 20)
    wide:narrow(4, 3, 12):copy_(x)
    local y = nn.no_grad(f, x)
    assert((last:stride())[2] == 1 and last:equal(x))
    for _, other in ipairs {last, wide:narrow(4, 3, 12), x:transpose(3, 4):contiguous():transpose(3, 4)} do
      assert(nn.no_grad(f, other):equal(y))
    end
  end)

  it("follows a weight that changes between runs", function()
    local x, w = nn.randn(2, 16, 12, 12), nn.randn(16, 16, 3, 3)
    local f = inexact(function(input) return nn.F.conv2d(input, w) end)
    local y = nn.no_grad(f, x)
    w:mul_(2)
    assert(nn.no_grad(f, x):equal(y * 2))
  end)

  it("is one whose shape makes that quicker, and no other", function()
    local function takes(x, w, ...)
      local options = table.pack(...)
      local f = inexact(function(input) return nn.F.conv2d(input, w, table.unpack(options, 1, options.n)) end)
      nn.no_grad(f, x)
      return count(f, "_winograd") > 0
    end
    local x, w = nn.randn(2, 32, 20, 20), nn.randn(32, 32, 3, 3)
    assert.is_true(takes(x, w))
    assert.is_true(takes(x, w, {padding = 2}))
    assert.is_false(takes(x, w, {padding = 3}))
    assert.is_false(takes(x, w, {stride = 2}))
    assert.is_false(takes(x, w, {dilation = 2}))
    assert.is_false(takes(x, nn.randn(32, 16, 3, 3), {groups = 2}))
    assert.is_false(takes(x, nn.randn(32, 32, 5, 3)))
    assert.is_false(takes(x, nn.randn(4, 32, 3, 3)))
    assert.is_false(takes(nn.randn(2, 3, 20, 20), nn.randn(32, 3, 3, 3)))
    assert.is_false(takes(nn.randn(32, 20, 20), w))
    assert.is_false(takes(nn.randn(1, 32, 6, 6), w))
    assert.is_false(takes(nn.randn(0, 32, 20, 20), w))
    assert.is_false(takes(x:to("f64"), w:to("f64")))
    assert.is_false(takes(nn.randn(1, 256, 12, 12), nn.randn(256, 256, 3, 3)))
  end)

  it("needs less than 4 MB beside its results", function()
    local x, w = nn.randn(4, 128, 56, 56), nn.randn(128, 128, 3, 3)
    x = nn.F.conv2d(x, nn.randn(128, 128, 1, 1)) -- channels together
    local f = inexact(function(input) return nn.F.conv2d(input, w, {padding = 1}) end)
    collectgarbage()
    collectgarbage()
    collectgarbage "stop"
    nn.memory "trim"
    nn.memory "reset"
    local before = nn.memory().live
    local y = nn.no_grad(f, x)
    local peak = nn.memory().peak
    collectgarbage "restart"
    local bytes = peak - before - 4 * y:numel() * 1.25
    assert(bytes < 4 * 2 ^ 20, ("%d bytes"):format(bytes))
  end)
end)

describe("a convolution compiled with exact = false for which memory fails", function()
  it("says so, keeps nothing, and succeeds the next time", function()
    local x, w, dy = needing_grad(nn.randn(2, 16, 12, 12)), nn.randn(16, 16, 3, 3), nn.randn(2, 16, 10, 10)
    local last = nn.randn(2, 16, 12, 12)
    local f = inexact(function(input) return both(input, w, nil, dy) end)
    local g = inexact(function(input) return nn.F.conv2d(input, w) end)
    local function run() return f(x), nn.no_grad(g, last) end
    local wanted = table.pack(run())
    assert.equal(1, count(f, "conv_grad_input_winograd"))
    local failures = 0
    for at = 1, 1000 do
      w:add_(0) -- its transforms are made again
      nn.fail_allocation(at, true)
      local results = table.pack(pcall(run))
      nn.fail_allocation(0)
      if results[1] then
        for i, wanted_i in ipairs(wanted) do assert(results[1 + i]:equal(wanted_i)) end
        break
      end
      failures = failures + 1
      assert(tostring(results[2]):find("memory", 1, true), tostring(results[2]))
    end
    assert(failures > 5, failures .. " failures")
  end)
end)

describe("a network compiled with exact = false", function()
  local function block(from, to, relu)
    return nn.Sequential(nn.Conv2d(from, to, 3, {padding = 1, bias = relu}), nn.BatchNorm2d(to))
  end
  local Net = nn.Module:subclass "Net"
  function Net:init()
    self.first, self.second = block(3, 18, true), block(18, 18)
    self.third, self.last = block(18, 18, true), block(18, 40)
    for _, m in ipairs {self.first, self.second, self.third, self.last} do
      m[2].running_mean:uniform_(-1, 1)
      m[2].running_var:uniform_(0.5, 2)
      m[2].weight:detach():uniform_(-1, 1)
      m[2].bias:detach():uniform_(-1, 1)
    end
  end
  function Net:forward(x)
    local y = nn.F.relu(self.first(x))
    local z = nn.F.relu(self.second(y))
    z = nn.F.relu(self.third(z) + y)
    return self.last(z) -- the images between lie with columns of zeros beside them
  end

  for _, size in ipairs {{16, 16}, {13, 9}, {18, 23}} do
    it(("keeps bias, normalisation, sum and relu in the last pass: %d x %d"):format(size[1], size[2]), function()
      nn.manual_seed(7)
      local net = Net():eval()
      local x = nn.randn(3, 3, size[1], size[2])
      local f, g = inexact(function(i) return net(i) end), nn.compile(function(i) return net(i) end)
      local y = with_threads(1, nn.no_grad, f, x)
      assert.equal(2, count(f, "conv2d_winograd%+relu"))
      assert.equal(3, count(f, "conv2d_winograd"))
      assert(with_threads(2, nn.no_grad, f, x):equal(y))
      assert(nn.no_grad(g, x):equal(nn.no_grad(function() return net(x) end)))
      assert.equal(0, count(g, "_winograd"))
      local wanted = nn.no_grad(function() return net:to("f64")(double(x)) end)
      assert((double(y) - wanted):abs():max():item() <= BOUND * 10 * wanted:abs():max():item())
    end)
  end

  it("trains as with exact = true, up to rounding", function()
    local function losses(exact)
      nn.manual_seed(5)
      local net = Net()
      local opt, found = nn.optim.SGD(net:parameters(), {lr = 0.05}), {}
      local step = nn.compile(function(x, y)
        opt:zero_grad()
        local l = nn.F.mse_loss(net(x), y)
        l:backward()
        opt:step()
        return l
      end, {exact = exact})
      local x, y = nn.randn(4, 3, 12, 12), nn.randn(4, 40, 12, 12)
      for i = 1, 8 do found[i] = step(x, y):item() end
      return found, step
    end
    local exact, plain = losses(true)
    local other, step = losses(false)
    assert.equal(0, count(plain, "_winograd"))
    assert.equal(3, count(step, "conv2d_winograd"))
    assert.equal(3, count(step, "conv_grad_input_winograd"))
    for i = 1, 8 do assert(math.abs(exact[i] - other[i]) <= 1e-3 * exact[i], exact[i] .. " and " .. other[i]) end
  end)
end)
