-- nn.compile: random programs have the bits of their functions.
local helpers = require "spec.helpers"
local nn = helpers.nn
local same, unsettle = helpers.equal, helpers.unsettle

local unary = {"relu", "sigmoid", "tanh", "exp", "neg", "abs", "square", "silu"}

-- A function of six tensors that applies a random list of elementwise ops, reductions and changes of w.  Some are
-- applied twice, with a change of w or of an argument between them or not; some depend on nothing or are random.
local function random_function(random, w)
  local list = {}
  for i = 1, random(40) do
    list[i] = {random(6) < 4, random(1000), random(1000), random(1000), random(10), random(4)}
  end
  return function(...)
    local v = {...}
    local changed = v[1]:clone()
    local function apply(s, x, y)
      local kind = s[4] % 8
      if s[1] then return nn[unary[s[4] % #unary + 1]](x):clamp(-3, 3) end
      if kind == 0 then return x + y end
      if kind == 1 then return x * y * 0.5 end
      if kind == 2 then return nn.where(x:gt(y), x, y) end
      if kind == 3 then return (x - y) ^ 2 end
      if kind == 4 then return x * (nn.full({1}, s[2] % 5) / 7 + nn.ones(1):exp()) end
      if kind == 5 then return x + nn.rand(1) end
      if kind == 6 then return w * x + changed:mean() end
      w:add_((x + y):tanh():mean())
      return w * x
    end
    for _, s in ipairs(list) do
      local x, y = v[s[2] % #v + 1], v[s[3] % #v + 1]
      local z = apply(s, x, y)
      if s[5] <= 3 then
        if s[6] == 1 then w:mul_(0.9) elseif s[6] == 2 then changed:add_(1) end
        z = z - apply(s, x, y) * 0.7
      end
      v[#v + 1] = z
    end
    local results = {v[#v], changed} -- and every third: the others stay inside a chain
    for i = 7, #v, 3 do results[#results + 1] = v[i] end
    return results
  end
end

-- The same for images: convolutions, normalisations, sums and changes in place, each of any image before.
local function random_network(random, layers)
  local list = {}
  for i = 1, random(9) + 1 do list[i] = {random(9), random(1000), random(1000), random(#layers)} end
  return function(x)
    local v = {x}
    for _, s in ipairs(list) do
      local kind, a, b, layer = s[1], v[#v - s[2] % math.min(#v, 2)], v[s[3] % #v + 1], layers[s[4]]
      local z
      if kind <= 2 then z = layer.conv(a)
      elseif kind <= 4 then z = layer.norm(a)
      elseif kind == 5 then z = a + b
      elseif kind == 6 then z = s[3] % 3 == 0 and layer.conv(a):add_(b) or b + layer.conv(a)
      elseif kind == 7 then z = s[3] % 2 == 0 and v[#v] ~= x and v[#v]:relu_() or a:relu()
      elseif kind == 8 then z = layer.norm(layer.conv(a)) + b
      elseif #v > 1 then
        v[#v]:mul_(0.5)
        if layer.norm.training == false then layer.norm.running_mean:add_(0.125) end
      end
      v[#v + 1] = z
    end
    local results = {v[#v]}
    if #v % 3 == 0 then results[2] = v[#v - 1] end
    return results
  end
end

-- A convolution whose result has its input's size.
local function same_sized(random, channels)
  local kernel, options = table.unpack(({
    {3, {padding = 1}}, {3, {padding = 1}}, {3, {padding = 1}}, {1, {}}, {5, {padding = 2}},
    {3, {dilation = 2, padding = 2}}, {{1, 3}, {padding = {0, 1}}}, {{3, 1}, {padding = {1, 0}}},
    {{2, 4}, {padding = "same"}}, {3, {padding = 1, groups = channels}},
  })[random(10)])
  options.bias = random(2) == 1
  return nn.Conv2d(channels, channels, kernel, options)
end

local function generator(state)
  return function(n)
    state = (state * 1103515245 + 12345) % 2147483648
    return state // 65536 % n + 1
  end
end

describe("random programs of images", function()
  it("give the bits of their functions", function()
    local random = generator(99)
    for trial = 1, 400 do
      local channels, layers = random(40), {}
      for i = 1, 2 do
        layers[i] = {conv = same_sized(random, channels), norm = unsettle(nn.BatchNorm2d(channels))}
        if random(8) == 1 then layers[i].norm:train() end
      end
      local function reset()
        for i, layer in ipairs(layers) do layer.norm.running_mean:fill_(i / 4) layer.norm.running_var:fill_(i) end
      end
      local f, x = random_network(random, layers), nn.randn(random(2), channels, random(8), random(8) + 1)
      local compiled = nn.compile(f)
      for _ = 1, 2 do
        reset()
        local wanted = nn.no_grad(f, x)
        reset()
        local got = nn.no_grad(compiled, x)
        for i = 1, #wanted do assert.is_true(same(wanted[i], got[i]), ("trial %d, result %d"):format(trial, i)) end
      end
    end
  end)
end)

describe("random elementwise programs", function()
  it("give the bits of their functions", function()
    local random = generator(12345)
    for trial = 1, 150 do
      local n, m = random(70), random(90)
      if trial % 10 == 0 then n, m = random(200) + 100, random(400) + 300 end
      local shapes, inputs = {{n, m}, {m}, {1, m}, {}, {n, m}, {n, 1}, {1}}, {}
      for i = 1, 6 do inputs[i] = nn.randn(shapes[random(#shapes)]) end
      if trial % 3 == 0 then inputs[2] = nn.randn(m, n):t() end
      local w = nn.randn(n, m)
      local first = w:clone()
      local f = random_function(random, w)
      nn.manual_seed(trial)
      local wanted = f(table.unpack(inputs))
      local next_number = nn.rand(1)
      local w_wanted = w:clone()
      local compiled = nn.compile(f)
      for _ = 1, 2 do
        w:copy_(first)
        nn.manual_seed(trial)
        local got = compiled(table.unpack(inputs))
        assert.is_true(same(next_number, nn.rand(1)))
        assert.equal(#wanted, #got)
        for i = 1, #wanted do assert.is_true(same(wanted[i], got[i]), ("trial %d, result %d"):format(trial, i)) end
        assert.is_true(same(w_wanted, w))
      end
    end
  end)
end)
