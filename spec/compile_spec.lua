-- nn.compile: what a captured training step or network computes is what it computes by itself, bit for bit.
local helpers = require "spec.helpers"
local nn = helpers.nn
local message, same = helpers.message, helpers.equal

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
