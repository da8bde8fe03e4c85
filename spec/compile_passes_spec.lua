-- nn.compile: what its passes do to convolutions, their neighbours and products, with eager's bits.
local helpers = require "spec.helpers"
local nn = helpers.nn
local same, unsettle, count_of = helpers.equal, helpers.unsettle, helpers.count_of

-- A function of x that leaves gradients in net, whose result is change(net, x).
local function gradients_of(net, change)
  return function(x)
    net:zero_grad()
    local y = change(net, x)
    y:square():sum():backward()
    return y:detach()
  end
end

-- Captured f gives eager's bits, twice, and leaves the same gradients in net; returns what was compiled.
local function check_all(f, net, x)
  local y, wanted, g = f(x), {}, nn.compile(f)
  for i, p in ipairs(net:parameters()) do wanted[i] = p.grad:clone() end
  for _ = 1, 2 do
    assert.is_true(same(y, g(x)))
    for i, p in ipairs(net:parameters()) do assert.is_true(same(wanted[i], p.grad)) end
  end
  return g
end

---------------------------------------------------------------- convolutions whose weights stay

local kinds = {
  {"a plain convolution", function() return nn.Conv2d(3, 20, 3, {padding = 1}), nn.randn(2, 3, 9, 11) end},
  {"one of many channels with strides", function()
    return nn.Conv2d(64, 70, 3, {stride = 2}), nn.randn(1, 64, 12, 12)
  end},
  {"single places", function() return nn.Conv2d(33, 40, 1, {bias = false}), nn.randn(1, 33, 6, 6) end},
  {"groups with dilation", function()
    return nn.Conv2d(6, 9, {2, 3}, {groups = 3, dilation = {2, 1}, padding = {1, 2}}), nn.randn(2, 6, 8, 7)
  end},
  {"a depthwise convolution", function()
    return nn.Conv2d(18, 18, 3, {groups = 18, padding = "same"}), nn.randn(1, 18, 8, 8)
  end},
  {"one dimension", function() return nn.Conv1d(4, 5, 3, {padding = 1}), nn.randn(2, 4, 30) end},
  {"three dimensions in f64", function()
    return nn.Conv3d(2, 3, 2, {padding = 1}):to "f64", nn.randn(1, 2, 4, 5, 4):to "f64"
  end},
  {"an image without a batch", function() return nn.Conv2d(3, 4, 3), nn.randn(3, 7, 7) end},
  {"an image with other strides", function() return nn.Conv2d(3, 4, 3), nn.randn(2, 7, 7, 3):permute(1, 4, 3, 2) end},
  {"one channel to few", function() return nn.Conv2d(1, 6, 5, {padding = 2}), nn.randn(1, 1, 28, 28) end},
  {"one channel to few, in a batch", function() return nn.Conv2d(1, 3, {3, 2}), nn.randn(5, 1, 9, 40) end},
  {"one channel to few in a row", function()
    return nn.Conv1d(1, 7, 9, {padding = 4, bias = false}), nn.randn(3, 1, 100)
  end},
  {"no result", function() return nn.Conv2d(3, 4, 3), nn.zeros(0, 3, 7, 7) end},
}

describe("a captured convolution", function()
  for _, kind in ipairs(kinds) do
    it("has eager's bits, also when its parameters change between runs: " .. kind[1], function()
      nn.manual_seed(7)
      local net, x = kind[2]()
      local f = nn.compile(function(input) return net(input) end)
      for run = 1, 4 do
        local wanted, got = nn.no_grad(net, x), nn.no_grad(f, x)
        assert.is_true(same(wanted, got))
        nn.no_grad(function()
          if run ~= 2 then net.weight:mul_(1.5) end
          if run ~= 1 and net.bias then net.bias:add_(0.25) end
        end)
        x = x:clone():mul_(0.5):add_(0.125)
      end
    end)
  end

  it("has the same bits on one thread and on two", function()
    local usual = nn.threads()
    finally(function() nn.set_threads(usual) end)
    local shapes = {{1, 6, 28, 28, 5}, {1, 6, 61, 40, 5}, {3, 16, 32, 32, 3}, {64, 64, 8, 8, 3}, {32, 64, 9, 50, 1},
      {8, 24, 1, 300, 1}}
    for _, sizes in ipairs(shapes) do
      local from, to, height, width, kernel = table.unpack(sizes)
      local conv, x = nn.Conv2d(from, to, kernel, {padding = kernel // 2}), nn.randn(1, from, height, width)
      for _, net in ipairs {unsettle(nn.Sequential(conv, nn.BatchNorm2d(to))), nn.Sequential(conv, nn.ReLU())} do
        local results = {}
        for threads = 1, 2 do
          nn.set_threads(threads)
          results[threads] = nn.no_grad(nn.compile(function(y) return net(y) end), x)
        end
        assert.is_true(same(results[1], results[2]) and same(results[1], nn.no_grad(net, x)))
      end
    end
  end)

  it("sees a bias that is another one in each run, where the weight stays", function()
    for _, channels in ipairs {1, 3} do
      local weight = nn.randn(5, channels, 3, 3)
      local f = nn.compile(function(x, bias) return nn.F.conv2d(x, weight, bias):relu() end)
      for _ = 1, 3 do
        local x, bias = nn.randn(1, channels, 8, 9), nn.randn(5)
        assert.is_true(same(nn.F.conv2d(x, weight, bias):relu(), f(x, bias)))
      end
    end
  end)

  it("sees a weight that the function itself computes or changes", function()
    local weight = nn.randn(4, 2, 3, 3)
    local function f(x)
      local y = nn.F.conv2d(x, weight * 2)
      weight:add_(1)
      return y + nn.F.conv2d(x, weight)
    end
    local x, before = nn.randn(1, 2, 6, 6), weight:clone()
    local wanted = {f(x), f(x)}
    weight:copy_(before)
    local g = nn.compile(f)
    for run = 1, 2 do assert.is_true(same(wanted[run], g(x))) end
  end)
end)

---------------------------------------------------------------- what goes into a convolution's last pass

local function convolution_first(options, norm, more)
  return function()
    local last = more and nn.ReLU() or nn.Identity()
    return unsettle(nn.Sequential(nn.Conv2d(6, 20, 3, options), nn.BatchNorm2d(20, norm), last)), nn.randn(2, 6, 9, 7)
  end
end

local normalised = {
  {"with a bias and a relu", convolution_first({padding = 1}, nil, true)},
  {"without a bias, with another eps", convolution_first({bias = false, stride = 2}, {eps = 0.1})},
  {"without parameters of its own", convolution_first({}, {affine = false}, true)},
  {"behind narrow images", function()
    return unsettle(nn.Sequential(nn.Conv2d(2, 40, 3), nn.BatchNorm2d(40))), nn.randn(3, 2, 5, 4)
  end},
  {"behind a depthwise convolution", function()
    local conv = nn.Conv2d(35, 35, 3, {groups = 35})
    return unsettle(nn.Sequential(conv, nn.BatchNorm2d(35), nn.ReLU())), nn.randn(1, 35, 9, 9)
  end},
  {"behind groups", function()
    return unsettle(nn.Sequential(nn.Conv2d(6, 9, 3, {groups = 3}), nn.BatchNorm2d(9))), nn.randn(2, 6, 6, 6)
  end},
  {"of one dimension", function()
    return unsettle(nn.Sequential(nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5), nn.ReLU())), nn.randn(2, 3, 20)
  end},
  {"of three dimensions in f64", function()
    local net = unsettle(nn.Sequential(nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3)):to "f64")
    return net, nn.randn(1, 2, 4, 5, 4):to "f64"
  end},
}

-- A block with a shortcut, which is computed first or last.
local Shortcut = nn.Module:subclass "Shortcut"

function Shortcut:init(last)
  self.last = last
  self.main, self.short = nn.Conv2d(4, 8, 3, {padding = 1}), nn.Conv2d(4, 8, 1)
  self.norm, self.short_norm = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
end

function Shortcut:forward(x)
  local short = not self.last and self.short_norm(self.short(x))
  local y = self.norm(self.main(x))
  if short then return (short + y):relu() end
  return (y + self.short_norm(self.short(x))):relu()
end

describe("in a captured function", function()
  before_each(function() nn.manual_seed(11) end)

  for _, kind in ipairs(normalised) do
    it("a normalisation is part of the convolution before it, with eager's bits: " .. kind[1], function()
      local net, x = kind[2]()
      local f = nn.compile(net)
      for _ = 1, 2 do assert.is_true(same(nn.no_grad(net, x), nn.no_grad(f, x))) end
      assert.equal(0, count_of(f, "batch_norm"))
      assert.equal(1, count_of(f, "conv%dd_fused"))
      assert.equal(0, count_of(f, "= relu"))
    end)
  end

  it("each parameter and each statistic may change between runs", function()
    local net, x = convolution_first({}, nil, true)()
    local f, seen = nn.compile(net), {}
    nn.no_grad(function()
      f(x)
      for name, tensor in pairs(net:state_dict()) do
        if tensor.dtype ~= "i64" then
          tensor:mul_(1.25)
          seen[name] = true
          assert.is_true(same(net(x), f(x)), name)
        end
      end
    end)
    for _, name in ipairs {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"} do
      assert.is_true(seen[name], name)
    end
  end)

  it("training between runs is seen", function()
    local net, x = convolution_first({}, nil, true)()
    local f = nn.compile(function(y) return net(y) end)
    for _ = 1, 3 do
      assert.is_true(same(nn.no_grad(net, x), nn.no_grad(f, x)))
      net:train()
      net(x):sum():backward()
      nn.no_grad(function() for _, p in ipairs(net:parameters()) do p:sub_(p.grad * 0.01) end end)
      net:eval()
    end
  end)

  for _, last in ipairs {false, true} do
    it("a sum is part of the convolution that comes last, the shortcut " .. (last and "behind" or "before"), function()
      local net, x = unsettle(Shortcut(last)), nn.randn(2, 4, 7, 9)
      local f = nn.compile(net)
      for _ = 1, 2 do assert.is_true(same(nn.no_grad(net, x), nn.no_grad(f, x))) end
      assert.matches("^2 steps", f:explain())
      assert.equal(1, count_of(f, "conv2d_fused%+relu"))
    end)
  end

  it("a sum with an argument, with something twice or with another layout is right, too", function()
    local conv = nn.Conv2d(4, 4, 3, {padding = 1})
    local x = nn.randn(2, 4, 6, 6)
    for _, sum in ipairs {
      function(y) return y + conv(y) end,
      function(y) local z = conv(y) return z + z end,
      function(y) return conv(y) + conv(y) + conv(y) end,
      function(y) return nn.add(conv(y), conv(y), {alpha = 0.5}) end,
      function(y) return conv(y) + y:mean({3, 4}, true) end,
      function(y) return conv(y) + 1 end,
      function(y) return conv(y) + conv(y):permute(1, 3, 2, 4):contiguous():permute(1, 3, 2, 4) end,
      function(y) return conv(y):add_(y:mean({3, 4}, true)) end,
    } do
      local f = nn.compile(sum)
      for _ = 1, 2 do assert.is_true(same(nn.no_grad(sum, x), nn.no_grad(f, x))) end
    end
  end)

  it("a sum and its positive part behind a convolution of one channel are right", function()
    local one, other, norm = nn.Conv2d(1, 5, 3), nn.Conv2d(1, 5, 3), unsettle(nn.BatchNorm2d(5))
    local x = nn.randn(1, 1, 12, 11)
    for _, sum in ipairs {
      function(y) return (one(y) + other(y)):relu() end,
      function(y) return (norm(one(y)) + other(y)):relu() end,
      function(y) return one(y):relu() + 1 end,
    } do
      local f = nn.compile(sum)
      for _ = 1, 2 do assert.is_true(same(nn.no_grad(sum, x), nn.no_grad(f, x))) end
    end
  end)

  it("changes in place are part of the last pass, unless the values before are seen", function()
    local conv, norm, linear = nn.Conv2d(4, 4, 3, {padding = 1}), unsettle(nn.BatchNorm2d(4)), nn.Linear(6, 5)
    local x = nn.no_grad(conv, nn.randn(2, 4, 6, 6))
    for i, case in ipairs {
      {1, function(y) return conv(y):add_(y):relu_() end},
      {1, function(y) return norm(conv(y)):add_(y):relu_() end},
      {2, function(y) return conv(conv(y):relu_()):add_(y) end},
      {1, function(y) return linear(y):relu_() end},
      {3, function(y)
        local z = conv(y)
        local mean = z:mean()
        return z:add_(y), mean
      end},
      {3, function(y)
        local z = conv(y)
        local mean = z:mean()
        return z:relu_(), mean
      end},
      {2, function(y)
        local z = conv(y)
        z:narrow(2, 1, 2):relu_()
        return z
      end},
      {3, function(y)
        local z = conv(y)
        z:narrow(3, 1, 2):add_(1)
        return z:add_(y):relu_()
      end},
    } do
      local steps, f = table.unpack(case)
      local compiled = nn.compile(f)
      for _ = 1, 2 do
        local wanted, got = {nn.no_grad(f, x)}, {nn.no_grad(compiled, x)}
        for k = 1, #wanted do assert.is_true(same(wanted[k], got[k]), ("case %d, result %d"):format(i, k)) end
      end
      assert.matches(("^%d steps"):format(steps), compiled:explain(), nil, ("case %d"):format(i))
    end
  end)

  it("what is added must be there when the convolution runs", function()
    local conv, x = nn.Conv2d(4, 4, 3, {padding = 1}), nn.randn(1, 4, 6, 6)
    local function changed(input)
      local other = conv(input) * 2
      local y = conv(input)
      other:add_(1)
      return y + other
    end
    local state = nn.ones(1, 4, 6, 6)
    local function counted(input)
      local y = conv(input)
      state:add_(1)
      return y + state
    end
    assert.is_true(same(nn.no_grad(changed, x), nn.no_grad(nn.compile(changed), x)))
    local f = nn.compile(counted)
    for i = 2, 4 do assert.is_true(same(nn.no_grad(conv, x) + i, nn.no_grad(f, x))) end
  end)

  it("statistics that the function itself changes behind the convolution are those of then", function()
    local net, x = convolution_first({}, nil)()
    local mean = net[2].running_mean
    local first = mean:clone()
    local function moved(input)
      local y = net[1](input)
      mean:add_(1)
      return net[2](y)
    end
    local wanted = nn.no_grad(moved, x)
    mean:copy_(first)
    assert.is_true(same(wanted, nn.no_grad(nn.compile(moved), x)))
  end)

  it("images between convolutions have zeros beside their rows, where these have padding", function()
    local convs = {}
    for i, options in ipairs {{padding = 1}, {padding = 1, stride = 2}, {padding = 1, groups = 4}, {}} do
      convs[i] = nn.Conv2d(8, 8, 3, options)
    end
    -- Bytes between two convolutions of an image of 7 x 6 places with 8 channels.
    for i, bytes in ipairs {7 * 8 * 8 * 4, 7 * 8 * 8 * 4, 7 * 8 * 8 * 4, 7 * 6 * 8 * 4} do
      local function f(y) return convs[i](convs[1](y)) end
      local compiled, x = nn.compile(f), nn.randn(1, 8, 7, 6)
      for _ = 1, 2 do assert.is_true(same(nn.no_grad(f, x), nn.no_grad(compiled, x))) end
      assert.matches(("memory: %d bytes"):format(math.ceil(bytes / 64) * 64), compiled:explain(), 1, true)
    end
    local function seen(y)
      local z, w = convs[1](y), convs[1](y * 2)
      return convs[1](z) + z:mean() + convs[1](w), w
    end
    local compiled, x = nn.compile(seen), nn.randn(2, 8, 5, 6)
    for _ = 1, 2 do
      local a, b = nn.no_grad(seen, x)
      local c, d = nn.no_grad(compiled, x)
      assert.is_true(same(a, c) and same(b, d))
      assert.same({b:stride()}, {d:stride()})
    end
  end)

  -- What is pooled, the side of windows, and the input.
  local pooled = {
    {"vectors of channels", nn.Conv2d(3, 40, 3), 2, {2, 3, 12, 10}},
    {"channels beside whole vectors", nn.Conv2d(5, 17, 3, {padding = 1, bias = false}), 2, {1, 5, 8, 6}},
    {"few channels", nn.Conv2d(6, 5, 5), 2, {3, 6, 14, 14}},
    {"one channel to few", nn.Conv2d(1, 6, 5, {padding = 2}), 2, {2, 1, 28, 28}},
    {"one channel to one", nn.Conv2d(1, 1, 3), 2, {1, 1, 10, 34}},
    {"threes", nn.Conv2d(4, 20, 2, {stride = 2}), 3, {1, 4, 24, 30}},
    {"wide rows", nn.Conv2d(8, 32, 3, {padding = 1}), 4, {1, 8, 16, 400}},
    {"a large image", nn.Conv2d(32, 64, 3), 2, {1, 32, 26, 26}},
    {"single places", nn.Conv2d(33, 40, 1), 2, {2, 33, 6, 6}},
    {"in f64", nn.Conv2d(3, 9, 3):to "f64", 2, {2, 3, 8, 8}},
  }

  for _, case in ipairs(pooled) do
    it("a convolution pools what it has made, with eager's bits: " .. case[1], function()
      local _, conv, side, shape = table.unpack(case)
      local x, norm = nn.randn(shape):to(conv.weight.dtype), unsettle(nn.BatchNorm2d(conv.weight.shape[1]))
      norm:to(conv.weight.dtype)
      for _, f in ipairs {
        function(y) return nn.F.max_pool2d(conv(y), side) end,
        function(y) return nn.F.max_pool2d(conv(y):relu(), side):flatten(2) end,
        function(y) return nn.F.max_pool2d(norm(conv(y)):relu(), {side, side}, {stride = side}) * 2 end,
      } do
        local g = nn.compile(f)
        for run = 1, 5 do
          if run == 5 then x:flatten()[2] = 0 / 0 end
          local input = run > 2 and x:permute(1, 3, 4, 2):contiguous():permute(1, 4, 2, 3) or x
          assert.is_true(same(nn.no_grad(f, input), nn.no_grad(g, input)))
        end
        assert.equal(0, count_of(g, "max_pool2d"))
      end
    end)
  end

  it("pooling stays by itself where it cannot be the convolution's", function()
    local conv, grouped, line = nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3, {groups = 2}), nn.Conv1d(4, 6, 3)
    local x = nn.randn(2, 4, 14, 11)
    local pool = nn.F.max_pool2d
    for i, f in ipairs {
      function(y) return pool(conv(y), 2) end, -- a column is left over
      function(y) return pool(conv(y), 3, {stride = 1}) end,
      function(y) return pool(conv(y), 3, {padding = 1}) end,
      function(y) return pool(conv(y), 2, {dilation = 2}) end,
      function(y) return pool(conv(y), {4, 3}) end,
      function(y) return pool(conv(y), {3, 3}, {ceil_mode = true}) + conv(y):mean() end,
      function(y) return pool(grouped(y), 3) end,
      function(y) return pool(conv(y), 3, {return_indices = true}) end,
      function(y) local z = conv(y) return pool(z, 3), z end,
      function(y) local z = conv(y) return pool(z, 3), pool(z, 3, {stride = 2}) end,
      function(y) local z = conv(y) return pool(z.narrow and z:narrow(2, 1, 3), 3) end,
      function(y) return pool(conv(y) + conv(y), 3) end,
      function(y) return pool(line(y[1]:permute(2, 1, 3)):reshape(1, 14, 6, 9), 3) end,
      function(y) return pool(conv(y[1]), 3) end,
    } do
      local g = nn.compile(f)
      for _ = 1, 2 do
        local wanted, got = {nn.no_grad(f, x)}, {nn.no_grad(g, x)}
        for k = 1, #wanted do assert.is_true(same(wanted[k], got[k]), ("case %d, result %d"):format(i, k)) end
      end
      assert.is_true(count_of(g, "max_pool2d") > 0, ("case %d"):format(i))
    end
  end)

  it("pooling stays by itself where a gradient asks for its places", function()
    local net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2))
    local g = check_all(gradients_of(net, function(f, y) return f(y) end), net, nn.randn(2, 3, 10, 10))
    assert.is_true(count_of(g, "max_pool2d") > 0)
  end)

  it("a convolution that others read, too, stays as it is", function()
    local net, x = convolution_first({}, nil)()
    local function both(input)
      local y = net[1](input)
      return net[2](y), y:mean()
    end
    local f = nn.compile(both)
    for _ = 1, 2 do
      local a, mean = nn.no_grad(both, x)
      local b, got = nn.no_grad(f, x)
      assert.is_true(same(a, b) and same(mean, got))
    end
    assert.equal(1, count_of(f, "batch_norm_eval"))
    local handed_out = nn.compile(function(input)
      local y = net[1](input)
      return net[2](y), y
    end)
    local _, y = nn.no_grad(handed_out, x)
    assert.is_true(same(nn.no_grad(net[1], x), y))
  end)

  it("normalisation by the batch's statistics, and one that gradients pass, stay as they are", function()
    local net, x = convolution_first({}, nil, true)()
    local f = nn.compile(function(input)
      net:zero_grad()
      net(input):sum():backward()
    end)
    net:zero_grad()
    net(x):sum():backward()
    local wanted = net[1].weight.grad
    f(x)
    assert.is_true(same(wanted, net[1].weight.grad))
    assert.equal(1, count_of(f, "= batch_norm_eval"))
    net:train()
    local g = nn.compile(net)
    nn.no_grad(g, x)
    assert.equal(1, count_of(g, "= batch_norm_train"))
  end)
end)

---------------------------------------------------------------- products

describe("a captured product", function()
  it("takes a relu behind a linear layer into its last pass, with eager's bits", function()
    local shapes = {{1, 5, 7}, {1, 784, 256}, {3, 200, 40}, {64, 33, 70}, {300, 70, 90}, {20, 300, 1}, {2, 3, 1}}
    for _, sizes in ipairs(shapes) do
      local rows, from, to = table.unpack(sizes)
      for _, bias in ipairs {true, false} do
        local net = nn.Sequential(nn.Linear(from, to, {bias = bias}), nn.ReLU())
        local broken = nn.full({rows, from}, 0 / 0)
        for _, x in ipairs {nn.randn(rows, from), nn.randn(2, rows, from), nn.randn(from, rows):t(), broken} do
          local f = nn.compile(net)
          for _ = 1, 2 do assert.is_true(same(nn.no_grad(net, x), nn.no_grad(f, x)), table.concat(sizes, " ")) end
          assert.matches("linear+relu", f:explain(), 1, true)
        end
      end
    end
  end)

  it("takes the sum behind a linear layer into its last pass, with eager's bits", function()
    local shapes = {{1, 5, 7}, {1, 784, 256}, {3, 200, 40}, {64, 33, 70}, {300, 600, 90}, {20, 300, 1}, {2, 3, 1}}
    for _, sizes in ipairs(shapes) do
      local rows, from, to = table.unpack(sizes)
      for _, dtype in ipairs {"f32", "f64"} do
        local net = nn.Linear(from, to, {bias = rows ~= 64}):to(dtype)
        local x, other = nn.randn(2, rows, from):to(dtype), nn.randn(2, rows, to):to(dtype)
        local functions = {
          function(a, b) return b + net(a) end,
          function(a, b) return net(a) + b end,
          function(a, b) return net(a):add_(b) end,
          function(a, b) return (b + net(a)):relu() end,
        }
        for i, f in ipairs(functions) do
          local g = nn.compile(f)
          for _ = 1, 2 do
            assert.is_true(same(nn.no_grad(f, x, other), nn.no_grad(g, x, other)), table.concat(sizes, " "))
          end
          assert.matches(i < 4 and "linear_add " or "linear_add+relu", g:explain(), 1, true)
        end
      end
    end
  end)

  it("takes the derivative behind a gradient's product into its last pass, with eager's bits", function()
    local activations = {
      nn.F.relu, nn.F.gelu, function(x) return x * (x:detach() - 1) end, function(x) return (x:detach() + 1) * x end,
    }
    local sizes = {{1, 5, 7, 3}, {64, 100, 128, 10}, {3, 9, 70, 1}, {300, 20, 600, 90}, {5, 2, 1, 2}}
    for _, size in ipairs(sizes) do
      local rows, from, hidden, to = table.unpack(size)
      for i, activation in ipairs(activations) do
        for _, dtype in ipairs {"f32", "f64"} do
          local net = nn.Sequential(nn.Linear(from, hidden), nn.Linear(hidden, to)):to(dtype)
          local f = gradients_of(net, function(layers, x) return layers[2](activation(layers[1](x))) end)
          for _, x in ipairs {nn.randn(rows, from), nn.randn(2, rows, from)} do
            local g = check_all(f, net, x:to(dtype))
            assert.equal(1, count_of(g, "= gemm_beside"), i .. ": " .. table.concat(size, " "))
          end
        end
      end
    end
  end)

  it("hands out such a gradient in the input's shape", function()
    local layer, x = nn.Linear(6, 4), nn.randn(2, 5, 6):requires_grad_()
    local function slope(input) return (nn.grad(layer(nn.F.relu(input)):square():sum(), input)) end
    local wanted, f = slope(x), nn.compile(slope)
    for _ = 1, 2 do assert.is_true(same(wanted, f(x))) end
    assert.same({2, 5, 6}, f(x).shape)
    assert.equal(1, count_of(f, "= gemm_beside"))
  end)

  it("leaves derivatives alone that stand elsewhere, or whose product others see", function()
    local net = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    local turned, row = nn.randn(4, 5), nn.randn(4)
    local changes = {
      function(x) return x * x:exp() end,           -- two readers
      function(x) return x * row end,               -- broadcast
      function(x) return x * (turned * 2):t() end,  -- lies otherwise
      function(x) return x:relu() + x end,
      function(x) return x * 3 end,
    }
    for i, change in ipairs(changes) do
      local f = gradients_of(net, function(layers, x) return layers[2](change(layers[1](x))) end)
      assert.equal(0, count_of(check_all(f, net, nn.randn(5, 6)), "= gemm_beside"), "case " .. i)
    end
  end)

  it("leaves sums alone that a linear layer cannot make", function()
    local net, x, y = nn.Linear(5, 4), nn.randn(3, 5), nn.randn(3, 4)
    local others = {
      function(a) local z = net(a) return z + y, z end,           -- seen without the sum
      function(a) return net(a) + y:narrow(1, 1, 1) end,          -- broadcast
      function(a) return nn.add(net(a), y, {alpha = 2}) end,
      function(a) local z = net(a) return z + z end,
      function(a) return net(a) + nn.randn(4, 3):t() end,         -- lies otherwise
      function(a) local z = nn.zeros(3, 4) local w = net(a) z:add_(1) return w + z end, -- not there yet
      function(a) local z = y:clone() z:add_(net(a)) return z end, -- where the residual lies
    }
    for i, f in ipairs(others) do
      local g = nn.compile(f)
      for _ = 1, 2 do
        nn.manual_seed(i)
        local a, b = nn.no_grad(f, x)
        nn.manual_seed(i)
        local c, d = nn.no_grad(g, x)
        assert.is_true(same(a, c) and (not b or same(b, d)), "case " .. i)
      end
      assert.equal(0, count_of(g, "linear_add"), "case " .. i)
    end
  end)

  it("and the gradients of normalisations add what came by the other way, with eager's bits", function()
    local plain = nn.LayerNorm({6}, {elementwise_affine = false})
    local norms = {nn.LayerNorm {6}, nn.RMSNorm {6}, nn.GroupNorm(2, 6), plain}
    for i, norm in ipairs(norms) do
      for _, dtype in ipairs {"f32", "f64"} do
        nn.manual_seed(i)
        local first, second = nn.Linear(6, 6), nn.Linear(6, 6)
        local net = unsettle(nn.ModuleList {first, norm, second}):to(dtype)
        local x = nn.randn(9, 6):to(dtype)
        local function gradients(input)
          net:zero_grad()
          local y = first(input)
          y = y + second(norm(y))
          y = y + norm(y)
          y:square():sum():backward()
        end
        gradients(x)
        local wanted = {}
        for k, p in ipairs(net:parameters()) do wanted[k] = p.grad:clone() end
        local f = nn.compile(gradients)
        for _ = 1, 2 do
          f(x)
          for k, p in ipairs(net:parameters()) do assert.is_true(same(wanted[k], p.grad), "norm " .. i) end
        end
        assert.equal(2, count_of(f, "_norm_backward"))
        assert.is_nil(f:explain():match "%(9x6%) = add ")
      end
    end
  end)

  it("of a few rows goes through its weight in both directions, with the same bits", function()
    for _, rows in ipairs {1, 3} do
      local net, x = nn.Linear(3000, 210), nn.randn(rows, 3000)
      local wanted, f, g = nn.no_grad(net, x), nn.compile(net), nn.compile(function(a, b) return a:mm(b) end)
      local weight = nn.randn(3000, 210)
      for _ = 1, 3 do
        assert.is_true(same(wanted, nn.no_grad(f, x)))
        assert.is_true(same(x:mm(weight), g(x, weight)))
      end
    end
  end)

  it("trains with a relu in its last pass as it does without", function()
    nn.manual_seed(4)
    local net, x = nn.Sequential(nn.Linear(9, 20), nn.ReLU(), nn.Linear(20, 3), nn.ReLU()), nn.randn(6, 9)
    local function gradients(input)
      net:zero_grad()
      net(input):square():sum():backward()
    end
    gradients(x)
    local wanted = {}
    for i, p in ipairs(net:parameters()) do wanted[i] = p.grad:clone() end
    local f = nn.compile(gradients)
    for _ = 1, 2 do
      f(x)
      for i, p in ipairs(net:parameters()) do assert.is_true(same(wanted[i], p.grad)) end
    end
    assert.matches("linear+relu", f:explain(), 1, true)
  end)

  it("may hand out the constant that is its weight", function()
    local rows = {}
    for i = 1, 40 do rows[i] = nn.arange(i, i + 29):totable() end
    local function f(x)
      local weight = nn.tensor(rows)
      return nn.F.linear(x, weight), weight
    end
    local x, g = nn.randn(20, 30), nn.compile(f)
    local wanted = f(x)
    for _ = 1, 2 do
      local got, weight = g(x)
      assert.is_true(same(wanted, got))
      weight:zero_()
    end
  end)
end)

describe("captured attention", function()
  it("splits and joins heads without a copy on either way, with eager's bits", function()
    for _, first in ipairs {true, false} do
      nn.manual_seed(5)
      local net, x = nn.MultiheadAttention(32, 4, {batch_first = first}), nn.randn(3, 150, 32)
      local gradients = gradients_of(net, function(layer, input)
        return (layer(input, input, input, {need_weights = false}))
      end)
      local f = check_all(gradients, net, x)
      assert.equal(1, count_of(f, "attention_backward"))
      assert.equal(0, count_of(f, "reshape"))
    end
  end)

  local function projected(width, heads, change)
    local net = nn.Sequential(nn.Linear(width, width), nn.Linear(width, 3 * width))
    local function split(y)
      local batch, length = table.unpack(y.shape)
      return y:reshape(batch, length, heads, width // heads):transpose(2, 3)
    end
    return net, function(x)
      net:zero_grad()
      local q, k, v = net(x):chunk(3, 3)
      local y = nn.F.scaled_dot_product_attention(split(change(q)), split(k), split(v), nil, 0, true)
      y:square():sum():backward()
      return y:detach()
    end
  end

  it("leaves the gradients of queries, keys and values where they belong in that of their projection", function()
    local sizes = {{2, 9, 15, 3}, {1, 300, 8, 1}, {3, 1, 4, 2}, {12, 64, 128, 4}, {1, 140, 6, 6}}
    for _, size in ipairs(sizes) do
      for _, dtype in ipairs {"f32", "f64"} do
        local batch, length, width, heads = table.unpack(size)
        local net, gradients = projected(width, heads, function(q) return q end)
        net:to(dtype)
        local f = check_all(gradients, net, nn.randn(batch, length, width):to(dtype))
        assert.equal(0, count_of(f, "= cat"), table.concat(size, " "))
      end
    end
  end)

  it("joins gradients that others see, or that other ops make, by a copy", function()
    for _, change in ipairs {function(q) return q * 2 end, function(q) return q + q:sum(2, true) end} do
      local net, gradients = projected(12, 3, change)
      assert.equal(1, count_of(check_all(gradients, net, nn.randn(2, 7, 12)), "= cat"))
    end
  end)

  it("hands out results that lie as eager's do", function()
    local function heads(x) return nn.F.scaled_dot_product_attention(x, x, x) end
    local x = nn.randn(2, 9, 3, 8):transpose(2, 3)
    local wanted, f = heads(x), nn.compile(heads)
    for _ = 1, 2 do
      local y = f(x)
      assert.is_true(same(wanted, y) and y:transpose(2, 3):is_contiguous())
    end
  end)
end)

describe("captured gelu", function()
  local function perceptron(options)
    local net = nn.Sequential(nn.Linear(7, 33), nn.GELU(options), nn.Linear(33, 5))
    return net, gradients_of(net, function(layers, x) return layers(x) end)
  end

  it("leaves its derivative for the way back, with eager's bits", function()
    for _, rows in ipairs {1, 3, 700} do
      for _, dtype in ipairs {"f32", "f64"} do
        local net, gradients = perceptron()
        net:to(dtype)
        local x = (nn.randn(rows, 7) * 5):to(dtype)
        local f = check_all(gradients, net, x)
        assert.equal(1, count_of(f, "= gelu_slope"))
        assert.equal(0, count_of(f, "gelu_backward"))
      end
    end
  end)

  it("stays by itself where nothing goes back, or with tanh, or where its input is changed between", function()
    local x = nn.randn(4, 7)
    local net = perceptron()
    local plain = nn.compile(function(input) return net(input) end)
    nn.no_grad(plain, x)
    assert.equal(0, count_of(plain, "gelu_slope"))
    local _, tanh = perceptron {approximate = "tanh"}
    local f = nn.compile(tanh)
    f(x)
    assert.equal(0, count_of(f, "gelu_slope"))
    local function changing(a)
      local b = a * 3
      local y = nn.F.gelu(b)
      b:add_(1)
      local c = b:detach():requires_grad_()
      return y, (nn.grad(nn.F.gelu(c):sum(), c))
    end
    local y, dx = changing(x)
    local g = nn.compile(changing)
    local got, slope = g(x)
    assert.is_true(same(y, got))
    assert.is_true(same(dx, slope))
  end)
end)
