-- nn.compile: what a captured function computes is what it computes by itself, bit for bit, and what cannot be
-- captured is an error that says what to do.
local helpers = require "spec.helpers"
local nn = helpers.nn

local function message(f, ...)
  local ok, text = pcall(f, ...)
  assert.is_false(ok, "no error")
  return text
end

local function same(a, b)
  return a.dtype == b.dtype and a.shape == b.shape and (a:eq(b) | (a:ne(a) & b:ne(b))):all():item()
end

local function same_state(a, b)
  local x, y = a:state_dict(), b:state_dict()
  for name, value in pairs(x) do assert.is_true(same(value, y[name]), name) end
end

---------------------------------------------------------------- training

local function network()
  return nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 5))
end

local optimizers = {
  {"SGD", {lr = 0.1}}, {"SGD", {lr = 0.1, momentum = 0.9, nesterov = true}}, {"Adam", {lr = 0.02, amsgrad = true}},
  {"AdamW", {lr = 0.02}}, {"RMSprop", {lr = 0.01, momentum = 0.5, centered = true}}, {"Adagrad", {lr = 0.1}},
}

-- 25 steps with dropout, a changing learning rate, and evaluation between; returns the network and all losses.
local function train(optimizer, wrap)
  nn.manual_seed(3)
  local net, loss = network(), nn.CrossEntropyLoss()
  local opt = nn.optim[optimizer[1]](net:parameters(), optimizer[2])
  local sched = nn.optim.StepLR(opt, 4, {gamma = 0.7})
  local step = wrap(function(x, y)
    opt:zero_grad()
    local l = loss(net(x), y)
    l:backward()
    nn.utils.clip_grad_norm_(net:parameters(), 1)
    opt:step()
    return l
  end)
  local value = wrap(function(x, y) return loss(net(x), y) end)
  local losses = {}
  for i = 1, 25 do
    local n = i % 7 == 0 and 5 or 8 -- another batch size now and then
    losses[#losses + 1] = step(nn.randn(n, 20), nn.randint(1, 5, {n})):item()
    sched:step()
    if i % 5 == 0 then
      net:eval()
      losses[#losses + 1] = nn.no_grad(value, nn.randn(8, 20), nn.randint(1, 5, {8})):item()
      net:train()
    end
  end
  return net, losses
end

describe("a captured training step", function()
  for _, optimizer in ipairs(optimizers) do
    it(("gives the bits of the function itself with %s"):format(optimizer[1]), function()
      local a, wanted = train(optimizer, function(f) return f end)
      local b, got = train(optimizer, nn.compile)
      assert.same(wanted, got)
      same_state(a, b)
      for i, p in ipairs(a:parameters()) do assert.is_true(same(p.grad, b:parameters()[i].grad)) end
    end)
  end

  -- Options that decide what is kept for a parameter, switched on and off between the steps.
  for _, switch in ipairs {
    {"SGD", "momentum", 0.9, 0}, {"RMSprop", "momentum", 0.5, 0}, {"RMSprop", "centered", true, false},
    {"AdamW", "amsgrad", true, false}, {"SGD", "nesterov", true, false},
  } do
    it(("follows %s's %s"):format(switch[1], switch[2]), function()
      local function run(wrap)
        nn.manual_seed(4)
        local w = nn.randn(5, {requires_grad = true})
        local opt = nn.optim[switch[1]]({w}, {lr = 0.1, momentum = switch[2] == "nesterov" and 0.7 or nil})
        local step = wrap(function(x)
          local loss = ((w - x) ^ 2):sum()
          opt:zero_grad()
          loss:backward()
          opt:step()
        end)
        for i = 0, 11 do
          opt.param_groups[1][switch[2]] = i // 3 % 2 == 1 and switch[3] or switch[4]
          step(nn.randn(5))
        end
        return w
      end
      assert.is_true(same(run(function(f) return f end), run(nn.compile)))
    end)
  end

  it("follows an optimizer's state that is loaded, and a group that is added", function()
    local function run(wrap)
      nn.manual_seed(4)
      local w, v = nn.randn(5, {requires_grad = true}), nn.randn(2, {requires_grad = true})
      local opt = nn.optim.Adam({w}, {lr = 0.1})
      local fresh = opt:state_dict {copy = true}
      local step = wrap(function(x)
        local loss = ((w - x) ^ 2 + v:sum()):sum()
        opt:zero_grad()
        loss:backward()
        opt:step()
      end)
      local function steps()
        for _ = 1, 3 do step(nn.randn(5)) end
      end
      steps()
      local state = opt:state_dict {copy = true}
      steps()
      opt:load_state_dict(state)
      steps()
      opt:load_state_dict(fresh)
      steps()
      opt:add_param_group {params = {v}, lr = 0.3}
      steps()
      return {w:totable(), v:totable()}
    end
    assert.same(run(function(f) return f end), run(nn.compile))
  end)

  it("adds to gradients that stand", function()
    local function run(wrap)
      nn.manual_seed(1)
      local w = nn.randn(4, 3, {requires_grad = true})
      local f = wrap(function(x) x:matmul(w):square():mean():backward() end)
      for _ = 1, 4 do f(nn.randn(2, 4)) end
      return w.grad
    end
    assert.is_true(same(run(function(f) return f end), run(nn.compile)))
  end)

  it("leaves a gradient alone that the script holds", function()
    local w = nn.ones(3, {requires_grad = true})
    local f = nn.compile(function(x)
      w.grad = nil
      (w * x):sum():backward()
    end)
    f(nn.tensor {1, 2, 3})
    local held = w.grad
    f(nn.tensor {4, 5, 6})
    assert.same({1, 2, 3}, held:totable())
    assert.same({4, 5, 6}, w.grad:totable())
  end)

  it("draws the random numbers of the function itself, and advances them", function()
    local function run(wrap)
      nn.manual_seed(5)
      local f = wrap(function(x)
        local _ = nn.rand(3) -- nobody needs it: its number is drawn all the same
        return nn.F.dropout(x, 0.5) + nn.randn(6)
      end)
      local out = {}
      for i = 1, 3 do out[i] = f(nn.ones(6)):totable() end
      out[4] = nn.rand(4):totable()
      return out
    end
    assert.same(run(function(f) return f end), run(nn.compile))
  end)

  it("changes nothing when it fails before its first change", function()
    local net = nn.Linear(3, 4)
    local opt, loss = nn.optim.SGD(net:parameters(), {lr = 0.1}), nn.CrossEntropyLoss()
    local step = nn.compile(function(x, y)
      opt:zero_grad()
      local l = loss(net(x), y)
      l:backward()
      opt:step()
      return l
    end)
    step(nn.randn(2, 3), nn.tensor({1, 2}, "i64"))
    local before, grad = net.weight:clone(), net.weight.grad:clone()
    assert.matches("cross_entropy: target", message(step, nn.randn(2, 3), nn.tensor({1, 9}, "i64")), 1, true)
    assert.is_true(same(before, net.weight))
    assert.is_true(same(grad, net.weight.grad))
    step(nn.randn(2, 3), nn.tensor({1, 4}, "i64"))
  end)
end)

---------------------------------------------------------------- kinds of networks

local Recurrent = nn.Module:subclass "Recurrent"

function Recurrent:init()
  self.emb, self.rnn = nn.Embedding(20, 16), nn.LSTM(16, 24, 2, {batch_first = true, dropout = 0.1})
  self.out = nn.Linear(24, 10)
end

function Recurrent:forward(x)
  local y = self.rnn(self.emb(x))
  return self.out(y:select(2, -1))
end

local Transformer = nn.Module:subclass "Transformer"

function Transformer:init()
  self.emb, self.norm = nn.Embedding(20, 32), nn.LayerNorm(32)
  self.attention = nn.MultiheadAttention(32, 4, {batch_first = true, dropout = 0.1})
  self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 10)
end

function Transformer:forward(x)
  local y = self.norm(self.emb(x))
  y = y + (self.attention(y, y, y, {need_weights = false}))
  return self.down(nn.F.gelu(self.up(y))):mean(2)
end

local networks = {
  {"convolutions, pooling and batch normalisation", function()
    return nn.Sequential(nn.Conv2d(1, 6, 5, {padding = 2}), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5),
      nn.BatchNorm2d(16), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(400, 84), nn.Dropout(0.2), nn.ReLU(),
      nn.Linear(84, 10))
  end, function() return nn.randn(4, 1, 28, 28) end},
  {"two LSTM layers", Recurrent, function() return nn.randint(1, 20, {8, 12}) end},
  {"attention and layer normalisation", Transformer, function() return nn.randint(1, 20, {8, 12}) end},
}

-- 25 steps with a changing learning rate, and evaluation between them; `call` calls the network.
local function train_network(make, draw, wrap, call)
  nn.manual_seed(5)
  local net, loss, losses = make(), nn.CrossEntropyLoss(), {}
  local opt = nn.optim.SGD(net:parameters(), {lr = 0.05, momentum = 0.9})
  local step = wrap(function(x, y)
    opt:zero_grad()
    local l = loss(call and call(net, x) or net(x), y)
    l:backward()
    opt:step()
    return l
  end)
  local evaluate = wrap(function(x) return net(x) end)
  for i = 1, 25 do
    local x = draw()
    losses[#losses + 1] = step(x, nn.randint(1, 10, {#x})):item()
    if i == 10 then opt.param_groups[1].lr = 0.01 end
    if i % 6 == 0 then
      net:eval()
      losses[#losses + 1] = nn.no_grad(evaluate, draw()):sum():item()
      net:train()
    end
  end
  return net, losses
end

describe("a captured network with", function()
  for _, kind in ipairs(networks) do
    it(kind[1] .. " trains and evaluates with the same bits", function()
      local a, wanted = train_network(kind[2], kind[3], function(f) return f end)
      for _, call in ipairs {false, nn.checkpoint} do
        local b, got = train_network(kind[2], kind[3], nn.compile, call)
        assert.same(wanted, got)
        same_state(a, b)
      end
    end)
  end

  for _, kind in ipairs(networks) do
    it(kind[1] .. " asks the host for no memory but its results'", function()
      local threads = nn.threads()
      nn.set_threads(2)
      local net, loss = kind[2](), nn.CrossEntropyLoss()
      local opt = nn.optim.Adam(net:parameters(), {lr = 0.01})
      local step = nn.compile(function(x, y)
        opt:zero_grad()
        local l = loss(net(x), y)
        l:backward()
        nn.utils.clip_grad_norm_(net:parameters(), 1)
        opt:step()
        return l
      end)
      local x = kind[3]()
      local y = nn.randint(1, 10, {#x})
      for _ = 1, 5 do step(x, y):free() end
      local calls = nn.memory().calls
      for _ = 1, 50 do step(x, y):free() end
      assert.equal(calls, nn.memory().calls)
      nn.set_threads(threads)
    end)
  end

  it("a relu behind a convolution or a normalisation computes it in their last pass", function()
    local net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.BatchNorm2d(8), nn.ReLU()):eval()
    local f = nn.compile(net)
    local x = nn.randn(2, 1, 9, 9)
    assert.is_true(same(nn.no_grad(net, x), nn.no_grad(f, x)))
    assert.matches("conv2d+relu", f:explain(), 1, true)
    assert.not_matches("= relu", f:explain(), 1, true)
  end)

  it("the gradient of a relu before max pooling is taken from the pooled values", function()
    local pools = {nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 1, {dilation = 2}),
      nn.AdaptiveMaxPool2d {4, 3}}
    for _, pool in ipairs(pools) do
      local conv = nn.Conv2d(1, 5, 3)
      local function gradients(x) return nn.grad(pool(conv(x):relu()):square():sum(), {conv.weight, conv.bias}) end
      local f, x = nn.compile(gradients), nn.randn(3, 1, 13, 12)
      local want, got = {gradients(x)}, {f(x)}
      for i in ipairs(want) do assert.is_true(same(want[i], got[i])) end
      local shape = f:explain():match "relu_backward %%%d+ (%b())"
      assert.equal(("(3x5x%dx%d)"):format(pool(conv(x)):size(3), pool(conv(x)):size(4)), shape)
    end
  end)
end)

---------------------------------------------------------------- convolutions whose weights stay

-- Statistics and parameters that are not those of a new layer.
local function unsettle(net)
  for _, buffer in ipairs(net:buffers()) do
    if buffer.dtype ~= "i64" then buffer:copy_(nn.rand(buffer.shape):add_(0.5)) end
  end
  nn.no_grad(function() for _, p in ipairs(net:parameters()) do p:copy_(nn.randn(p.shape)) end end)
  return net:eval()
end

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
    local shapes = {{1, 6, 28, 28, 5}, {3, 16, 32, 32, 3}, {64, 64, 8, 8, 3}, {32, 64, 9, 50, 1}, {8, 24, 1, 300, 1}}
    for _, sizes in ipairs(shapes) do
      local from, to, height, width, kernel = table.unpack(sizes)
      local net = unsettle(nn.Sequential(nn.Conv2d(from, to, kernel, {padding = kernel // 2}), nn.BatchNorm2d(to)))
      local x, results = nn.randn(1, from, height, width), {}
      for threads = 1, 2 do
        nn.set_threads(threads)
        results[threads] = nn.no_grad(nn.compile(function(y) return net(y) end), x)
      end
      assert.is_true(same(results[1], results[2]) and same(results[1], nn.no_grad(net, x)))
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

-- How often the program's text has a word.
local function count_of(f, word)
  local _, count = f:explain():gsub(word, "")
  return count
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

---------------------------------------------------------------- arguments and results

describe("a captured function", function()
  it("takes and gives nested tables, other values and nothing", function()
    local f = nn.compile(function(state, scale, name)
      local h = state.h * scale
      return {h = h, parts = {state.list[1] + h, name}}, nil, 3, h
    end)
    local h, other = nn.tensor {1, 2}, nn.tensor {10, 20}
    for _ = 1, 3 do
      local out, none, three, again = f({h = h, list = {other}}, 2, "x")
      assert.same({2, 4}, out.h:totable())
      assert.same({12, 24}, out.parts[1]:totable())
      assert.equal("x", out.parts[2])
      assert.is_nil(none)
      assert.equal(3, three)
      assert.same({2, 4}, again:totable())
    end
    assert.same({3, 6}, (f({h = h, list = {other}}, 3, "x")).h:totable())
    assert.equal(0, select("#", nn.compile(function() end)()))
  end)

  it("is captured again for other shapes, types, strides, values and modes", function()
    local runs = 0
    local drop = nn.Dropout(0.5)
    local f = nn.compile(function(x, y)
      runs = runs + 1
      return drop(x * y)
    end)
    local function captures(...)
      local before = runs
      f(...)
      local first = runs - before
      f(...)
      assert.equal(before + first, runs, "captured again for the same arguments")
      return first > 0
    end
    assert.is_true(captures(nn.ones(2, 3), 2))
    assert.is_true(captures(nn.ones(3, 2), 2))
    assert.is_true(captures(nn.ones(2, 3):t(), 2))
    assert.is_true(captures(nn.ones(2, 3, {dtype = "f64"}), 2))
    assert.is_true(captures(nn.ones(2, 3), 3))
    assert.is_true(captures(nn.ones(2, 3), nn.ones(1)))
    drop:eval()
    assert.is_true(captures(nn.ones(2, 3), 2))
    drop:train()
    assert.is_false(captures(nn.ones(2, 3), 2))
    nn.no_grad(function() assert.is_true(captures(nn.ones(2, 3), 2)) end)
  end)

  it("keeps a few programs and drops the one not used for longest", function()
    local captured
    local f = nn.compile(function(x)
      captured = x:size(1)
      return x + 1
    end)
    for round = 1, 2 do
      for n = 1, 12 do assert.same(nn.full({n}, 2 + round):totable(), f(nn.full({n}, 1 + round)):totable()) end
    end
    for _, call in ipairs {{5, false}, {13, true}, {7, false}, {5, false}, {6, true}} do
      captured = nil
      f(nn.ones(call[1]))
      assert.equal(call[2] and call[1] or nil, captured)
    end
  end)

  it("holds memory between its steps for the largest of its programs only", function()
    local w = nn.randn(64, 64)
    local function plain(x) return ((x:matmul(w):tanh():matmul(w) + 1):softmax(-1):matmul(w)):sum(1) end
    local f, kb = nn.compile(plain), 64 * 4
    local function held()
      collectgarbage()
      collectgarbage()
      return nn.memory().live
    end
    local function check(rows)
      local x = nn.randn(rows, 64)
      assert.is_true(same(plain(x), f(x)))
    end
    local before = held()
    for _, rows in ipairs {2800, 400, 1600, 4000, 800, 3200, 3600, 1200} do check(rows) end
    for _ = 1, 2 do
      for _, rows in ipairs {2800, 4000, 400, 3600} do check(rows) end
    end
    local most = held() - before
    assert.is_true(most > 2 * 4000 * kb and most < 3 * 4000 * kb, most)
    for rows = 1, 9 do -- the last of them meets no large one any more
      check(rows)
      collectgarbage()
    end
    assert.is_true(held() - before < 4000 * kb, held() - before)
  end)

  it("takes no memory for values while it is captured", function()
    local w = nn.randn(600, 600, {requires_grad = true})
    local f = nn.compile(function(x)
      local y = x
      for _ = 1, 20 do y = (y + 1):tanh():matmul(w) end
      y:sum():backward()
      error "taken down"
    end)
    local x = nn.randn(600, 600)
    collectgarbage()
    local before = nn.memory("reset").live
    assert.matches("taken down", message(f, x), 1, true)
    assert.is_true(nn.memory().peak_live - before < 600 * 600 * 4)
  end)

  it("gives fresh results", function()
    local f = nn.compile(function(x) return x * 2 end)
    local a = f(nn.tensor {1, 2})
    local b = f(nn.tensor {3, 4})
    assert.same({2, 4}, a:totable())
    assert.same({6, 8}, b:totable())
  end)

  it("hands an argument on as it is, and views of it as views", function()
    local f = nn.compile(function(x) return x, x[1], x:t() end)
    local x = nn.ones(2, 3)
    for _ = 1, 2 do
      local same_one, row, turned = f(x)
      assert.equal(x, same_one)
      row:fill_(5)
      assert.equal(5, x[{1, 1}]:item())
      assert.same({3, 2}, {turned:size(1), turned:size(2)})
    end
  end)

  it("writes into its arguments and into tensors outside", function()
    local total = nn.zeros(3)
    local f = nn.compile(function(x)
      total:add_(x)
      x[1] = 7
    end)
    local x = nn.tensor {1, 2, 3}
    f(x)
    f(x)
    assert.same({8, 4, 6}, total:totable())
    assert.same({7, 2, 3}, x:totable())
  end)

  it("reads tensors outside, and nn.scalar, afresh", function()
    local w, s = nn.ones(2), nn.scalar(2)
    local f = nn.compile(function(x) return x * w * s end)
    assert.same({2, 4}, f(nn.tensor {1, 2}):totable())
    w:fill_(10)
    s:fill_(3)
    assert.same({30, 60}, f(nn.tensor {1, 2}):totable())
  end)

  it("fills constants that it writes into anew for each run", function()
    local f = nn.compile(function(x)
      local z = nn.tensor {0, 0, 0}
      z[2] = x[1]
      return z
    end)
    for i = 1, 3 do assert.same({0, i, 0}, f(nn.tensor {i}):totable()) end
  end)

  it("calls another one's function inside, and a module", function()
    local inner = nn.compile(function(x) return x + 1 end)
    local outer = nn.compile(function(x) return inner(x) * 2 end)
    for _ = 1, 2 do assert.same({4}, outer(nn.tensor {1}):totable()) end
    local net = nn.Linear(2, 2)
    local x = nn.ones(1, 2)
    assert.is_true(same(net(x), nn.compile(net)(x)))
  end)

  it("shows its steps", function()
    local f = nn.compile(function(x) return (x + 1):relu() end)
    f(nn.ones(3))
    assert.matches("add+relu argument 0 (3)", f:explain(), 1, true)
  end)
end)

---------------------------------------------------------------- what is computed once

describe("a captured function computes", function()
  -- How many steps with this op its program has.
  local function steps(f, op)
    local _, count = f:explain():gsub("[ +=]" .. op .. " ", "")
    return count
  end

  it("what is written twice once, and anew behind a change", function()
    local w = nn.randn(3, 3)
    local function plain(x, change)
      local a = (x * 2):matmul(w):t()
      if change == "w" then w:add_(1) elseif change == "x" then x:add_(1) end
      return a - (x * 2):matmul(w):t() * 0.5
    end
    for change, wanted in pairs {none = 1, w = 2, x = 2} do
      local f, first, x = nn.compile(plain), w:clone(), nn.randn(3, 3)
      for _ = 1, 2 do
        local y = x:clone()
        local eager = plain(y, change)
        w:copy_(first)
        assert.is_true(same(eager, f(x:clone(), change)))
        w:copy_(first)
      end
      assert.equal(wanted, steps(f, "matmul"), change)
    end
  end)

  it("results that are equal as tensors of their own", function()
    local f = nn.compile(function(x) return x:matmul(x), x:matmul(x), x:matmul(x):sum() end)
    local a, b = f(nn.ones(2, 2))
    a:fill_(7)
    assert.equal(2, b[{1, 1}]:item())
    assert.equal(2, steps(f, "matmul"))
  end)

  it("what is random each time it is written", function()
    local f = nn.compile(function(x) return nn.F.dropout(x, 0.5) - nn.F.dropout(x, 0.5) end)
    assert.is_true((f(nn.ones(100)):abs():sum() > 0))
    assert.equal(2, steps(f, "dropout"))
  end)

  it("what depends on constants only at capture, but not what depends on tensors outside", function()
    local w = nn.ones(3, 3)
    local f = nn.compile(function(x)
      local mask = nn.ones(3, 3):tril():cumsum(1)
      return x:matmul(mask) + w:tril():cumsum(1)
    end)
    for i = 1, 3 do
      w:fill_(i)
      assert.same({{1 + i, 0, 0}, {3 + 2 * i, 1 + i, 0}, {6 + 3 * i, 3 + 2 * i, 1 + i}},
        f(nn.tensor {{1, 0, 0}, {1, 1, 0}, {1, 1, 1}}):totable())
    end
    assert.equal(1, steps(f, "cumsum"))
    assert.equal(1, steps(f, "tril"))
  end)

  it("constants that it changes, or hands out, anew for each run", function()
    local f = nn.compile(function(x)
      local z = nn.zeros(3) + 1
      z:add_(x)
      return z, nn.full({2}, 3) * 2
    end)
    for _ = 1, 3 do
      local z, c = f(nn.tensor {1, 2, 3})
      assert.same({2, 3, 4}, z:totable())
      assert.same({6, 6}, c:totable())
      c:fill_(0)
    end
  end)

  it("an error of a constant when it runs", function()
    local f = nn.compile(function(x) return x + nn.zeros(2, 2):index_select(1, nn.arange(2, 3)) end)
    assert.matches("index_select", message(f, nn.ones(2, 2)), 1, true)
  end)
end)

---------------------------------------------------------------- what cannot be captured

describe("compile refuses", function()
  it("to read values, naming the line", function()
    local f = nn.compile(function(x)
      return x:sum():item()
    end)
    local x = nn.ones(2)
    assert.matches("compile_spec.lua:%d+: item: values cannot be read inside a captured function", message(f, x))
    assert.matches("tostring: values cannot be read", message(nn.compile(function(a) return tostring(a) end), x))
    assert.matches("nonzero: the result's size depends on values",
      message(nn.compile(function(a) return a:nonzero() end), x))
  end)

  it("a number that differs from run to run, naming the line and nn.scalar", function()
    local count = 0
    local f = nn.compile(function(x)
      count = count + 1
      return x * count
    end)
    local text = message(f, nn.ones(2))
    assert.matches("compile_spec.lua:%d+ was another one", text)
    assert.matches("nn.scalar", text, 1, true)
  end)

  it("ops that differ from run to run", function()
    local count = 0
    local f = nn.compile(function(x)
      count = count + 1
      for _ = 1, count do x = x + 1 end
      return x
    end)
    assert.matches("did something else", message(f, nn.ones(2)), 1, true)
  end)

  it("the later use of what was made inside and not returned", function()
    local kept
    local f = nn.compile(function(x)
      kept = x * 2
      return kept
    end)
    f(nn.ones(2))
    assert.matches("made inside a captured function", message(function() return kept + 1 end), 1, true)
    assert.matches("made inside a captured function", message(function() return kept:totable() end), 1, true)
  end)

  it("what it kept when it ran before", function()
    local kept
    local f = nn.compile(function(x)
      local y = kept and x + kept or x
      kept = x * 2
      return y
    end)
    for _ = 1, 2 do
      assert.matches("add: other was made inside a captured function when it ran before",
        message(f, nn.ones(2)), 1, true)
    end
  end)

  it("a schedule's step, and a tracked argument", function()
    local opt = nn.optim.SGD(nn.Linear(2, 2):parameters(), {lr = 0.1})
    local sched = nn.optim.StepLR(opt, 2)
    assert.matches("call it outside", message(nn.compile(function() sched:step() end)), 1, true)
    local x = nn.ones(2, {requires_grad = true}) * 2
    assert.matches("detach it", message(nn.compile(function(y) return y + 1 end), x), 1, true)
  end)

  it("nothing with {fallback = true}: the function runs as it is", function()
    local f = nn.compile(function(x) return x:sum():item() end, {fallback = true})
    for i = 1, 3 do assert.equal(2 * i, f(nn.full({2}, i))) end
  end)

  it("what is no function, and unknown options", function()
    assert.matches("compile: argument 1 must be a function", message(nn.compile, 3), 1, true)
    assert.matches("did you mean 'fallback'", message(nn.compile, print, {falback = true}), 1, true)
  end)

  it("with the function's own error, after which all is as before", function()
    local w = nn.ones(2, {requires_grad = true})
    local f = nn.compile(function(x)
      w.grad = nil
      w.data = x
    end)
    w.grad = nn.ones(2)
    message(f, nn.ones(2))
    assert.same({1, 1}, w.grad:totable())
    assert.is_false(nn.ones(1):isnan():item())
  end)
end)

---------------------------------------------------------------- random programs

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
