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

describe("random elementwise programs", function()
  it("give the bits of their functions", function()
    local state = 12345
    local function random(n)
      state = (state * 1103515245 + 12345) % 2147483648
      return state // 65536 % n + 1
    end
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
