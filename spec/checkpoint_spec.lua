-- nn.checkpoint: the same gradients bit for bit with values that are computed again, eagerly and in captured
-- functions, in less memory.
local helpers = require "spec.helpers"
local nn = helpers.nn
local message = helpers.message

local function same(a, b, what)
  assert.is_true(a.dtype == b.dtype and a.shape == b.shape and a:equal(b), what)
end

-- Calls f as it is.
local function plainly(f, ...) return f(...) end

local Block = nn.Module:subclass "Block"

function Block:init(d)
  self.norm, self.up, self.drop, self.down = nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.Dropout(0.3), nn.Linear(2 * d, d)
end

function Block:forward(x) return x + self.down(self.drop(nn.F.gelu(self.up(self.norm(x))))) end

local function blocks(count, d)
  local net = nn.ModuleList()
  for _ = 1, count do net:append(Block(d)) end
  return net
end

-- Steps of a network of blocks; `call` runs each block, `wrap` the step.  Returns what is to be the same.
local function train(call, wrap, steps)
  nn.manual_seed(2)
  local net = blocks(3, 12)
  local x, opt = nn.randn(5, 12, {requires_grad = true}), nn.optim.Adam(net:parameters(), {lr = 0.01})
  local step = (wrap or plainly)(function(input)
    opt:zero_grad()
    local y = input
    for _, block in ipairs(net) do y = call(block, y) end
    local loss = (y ^ 2):mean()
    loss:backward()
    opt:step()
    return loss
  end)
  local seen = {}
  for _ = 1, steps or 3 do seen[#seen + 1] = (wrap and step or step)(x):item() end
  for _, p in ipairs(net:parameters()) do
    seen[#seen + 1] = p:totable()
    seen[#seen + 1] = p.grad:totable()
  end
  seen[#seen + 1] = x.grad:totable()
  seen[#seen + 1] = nn.rand(3):totable() -- the random numbers go on from the same place
  return seen
end

describe("nn.checkpoint", function()
  local function identity(f) return f end

  it("gives the bits of the function itself, with dropout", function()
    assert.same(train(plainly, identity), train(nn.checkpoint, identity))
  end)

  it("gives them in captured functions", function()
    local wanted = train(plainly, identity, 6)
    assert.same(wanted, train(nn.checkpoint, nn.compile, 6))
  end)

  it("gives them when nested", function()
    local function nested(block, x)
      return nn.checkpoint(function(y)
        local z = nn.checkpoint(block, y) * 1.5
        return nn.checkpoint(function(v) return nn.checkpoint(nn.tanh, v) * 2 end, z)
      end, x)
    end
    local function open(block, x) return nn.tanh(block(x) * 1.5) * 2 end
    assert.same(train(open, identity), train(nested, identity))
    assert.same(train(open, identity), train(nested, nn.compile))
  end)

  it("takes tables and other values, gives several results, and inputs need no gradient", function()
    local w = nn.randn(4, 4, {requires_grad = true})
    local function f(t, scale, none)
      assert.is_nil(none)
      local a = (t.x:matmul(w) * scale):sin()
      return a, "text", {part = a:exp()}
    end
    local x = nn.randn(3, 4)
    local function gradient(call)
      w.grad = nil
      local a, text, t = call(f, {x = x}, 2, nil)
      assert.equal("text", text)
      a:mul(t.part):sum():backward()
      return w.grad
    end
    same(gradient(plainly), gradient(nn.checkpoint))
  end)

  it("works through views and changes in place", function()
    local w = nn.randn(6, 6, {requires_grad = true})
    local function f(x)
      local y = x:matmul(w)
      y[1] = y[2] * 2
      y:narrow(2, 1, 3):mul_(w[{{1, 4}, {1, 3}}])
      y:exp_()
      return y:t():sigmoid()
    end
    local x = nn.randn(4, 6, {requires_grad = true})
    local function gradients(call) return nn.grad(call(f, x):sum(), {x, w}) end
    local a, b = gradients(plainly)
    local c, d = gradients(nn.checkpoint)
    same(a, c)
    same(b, d)
  end)

  it("gives gradients of gradients", function()
    local x = nn.randn(5, {requires_grad = true, dtype = "f64"})
    local function f(y) return (y:tanh() * y:exp()):square() end
    local function second(call)
      local g = nn.grad(call(f, x):sum(), {x}, {create_graph = true})
      return nn.grad((g ^ 2):sum(), {x})
    end
    same(second(plainly), second(nn.checkpoint))
    assert.is_true(nn.gradcheck(function(y) return nn.checkpoint(f, y) end, {x}))
  end)

  it("can be gone through twice with retain_graph", function()
    local x = nn.randn(5, {requires_grad = true})
    local y = nn.checkpoint(function(v) return v:exp():tanh() end, x):sum()
    y:backward({retain_graph = true})
    local once = x.grad:clone()
    y:backward()
    same(once * 2, x.grad)
    assert.matches("already used", message(y.backward, y), 1, true)
  end)

  it("calls hooks once, and only f of what is needed", function()
    local x, calls, runs = nn.randn(3, {requires_grad = true}), 0, 0
    local function f(v)
      runs = runs + 1
      local z = v:exp()
      z:register_hook(function() calls = calls + 1 end)
      return z * z
    end
    local y = nn.checkpoint(f, x)
    assert.equal(1, runs)
    y:sum():backward()
    assert.same({2, 1}, {runs, calls})
    assert.is_false(nn.no_grad(nn.checkpoint, nn.exp, x).requires_grad) -- nothing is recorded
  end)

  it("lets running statistics count once", function()
    local function state(call)
      nn.manual_seed(1)
      local net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU())
      for _ = 1, 2 do call(net, nn.randn(8, 4)):sum():backward() end
      return net:state_dict()
    end
    local wanted = state(plainly)
    for name, value in pairs(state(nn.checkpoint)) do same(wanted[name], value, name) end
  end)

  it("keeps the peak of a deep network low, eagerly and in what captured functions hold", function()
    local depth, d, n = 24, 64, 8192
    local net = nn.ModuleList()
    for _ = 1, depth do net:append(nn.Sequential(nn.Linear(d, d), nn.Tanh(), nn.Linear(d, d), nn.GELU())) end
    local x, layer = nn.randn(n, d), n * d * 4
    local function step_with(call)
      return function(input)
        net:zero_grad()
        local y = input
        for _, block in ipairs(net) do y = call(block, y) end
        y:sum():backward()
      end
    end
    local function start()
      collectgarbage()
      collectgarbage()
      nn.memory "trim"
      return nn.memory("reset").held
    end
    local function peak(call)
      local step = step_with(call)
      step(x)
      local before = start()
      step(x)
      return (nn.memory().peak - before) / layer
    end
    local function arena(call)
      local before = start()
      local step = nn.compile(step_with(call))
      for _ = 1, 3 do step(x) end
      return (start() - before) / layer, step
    end
    assert.is_true(peak(plainly) > 3 * depth) -- three a block
    assert.is_true(peak(nn.checkpoint) < 2 * depth) -- one, and garbage of Lua's
    assert.is_true((arena(plainly)) >= 3 * depth)
    assert.is_true((arena(nn.checkpoint)) < 1.6 * depth)
  end)
end)

describe("nn.checkpoint explains", function()
  local x = nn.randn(3, {requires_grad = true})

  it("what is no function", function()
    assert.matches("checkpoint: argument 1 must be a function or a module, got a tensor (3)",
      message(nn.checkpoint, x), 1, true)
  end)

  it("the function's own error, in both runs, and goes on after it", function()
    local runs, when = 0, 1
    local function f(v)
      runs = runs + 1
      local y = v:exp()
      if runs == when then error "of my own" end
      return y * y
    end
    assert.matches("checkpoint_spec.lua:%d+: of my own", message(nn.checkpoint, f, x))
    runs, when = 0, 2
    local y = nn.checkpoint(f, x):sum()
    x.grad = nil
    assert.matches("checkpoint_spec.lua:%d+: of my own", message(y.backward, y, {retain_graph = true}))
    assert.is_nil(x.grad)
    y:backward()
    same(nn.grad((x:exp() * x:exp()):sum(), {x}), x.grad)
  end)

  it("a function that does something else the second time", function()
    local runs = 0
    local function check(pattern, f)
      runs = 0
      local y = nn.checkpoint(function(v)
        runs = runs + 1
        return f(v)
      end, x):sum()
      assert.matches(pattern, message(y.backward, y), 1, true)
    end
    check("where exp (3) was, tanh (3) is now; it must do the same each time", function(v)
      return runs == 1 and v:exp() or v:tanh()
    end)
    check("it ended earlier", function(v) return runs == 1 and v:exp():exp() or v:exp() end)
    check("it went on where it had ended", function(v) return runs == 2 and v:exp():exp() or v:exp() end)
    check("it called checkpoint less often", function(v)
      return runs == 1 and nn.checkpoint(nn.exp, v) or v
    end)
    check("it called checkpoint more often", function(v)
      return runs == 2 and nn.checkpoint(nn.exp, v) or v:exp()
    end)
  end)

  it("inputs that were changed meanwhile", function()
    local c = nn.ones(3)
    local y = nn.checkpoint(function(v) return v:exp() * c end, x):sum()
    c:fill_(2)
    assert.matches("checkpoint: an input of mul was changed in place after the function ran",
      message(y.backward, y), 1, true)
    local w = nn.ones(3, {requires_grad = true})
    y = nn.checkpoint(function(v) return v:exp() * w end, x):sum()
    nn.no_grad(function() w:fill_(2) end)
    assert.matches("changed in place", message(y.backward, y), 1, true)
  end)

  it("backward inside of it", function()
    local function f(v) v:exp():sum():backward() end
    assert.matches("backward through what the function computes cannot be called inside",
      message(nn.checkpoint, f, x), 1, true)
  end)

  it("itself: help and annotations know it", function()
    local status, out = helpers.spawn {helpers.build .. "/nnlua", "help", "checkpoint"}
    assert.equal(0, status)
    assert.matches("nn.checkpoint(f, ...)", out, 1, true)
  end)
end)

---------------------------------------------------------------- random functions

local unary = {"relu", "sigmoid", "tanh", "exp", "neg", "square", "silu", "sin"}

-- A random list of ops, some of which are lists again: what is checkpointed.
local function random_list(random, depth)
  local list = {}
  for i = 1, random(5) do
    local part = depth > 0 and random(3) == 1 and random_list(random, depth - 1)
    list[i] = {part = part, kind = random(9), op = unary[random(#unary)], a = random(1000), b = random(1000)}
  end
  return list
end

-- Runs it on tensors of 4x4; w takes part in products.
local function run_list(list, call, w, ...)
  local v = {...}
  for _, s in ipairs(list) do
    local x, y, z = v[s.a % #v + 1], v[s.b % #v + 1]
    if s.part then
      local other
      z, other = call(function(...) return run_list(s.part, call, w, ...) end, x, v[#v])
      if s.kind > 4 then v[#v + 1] = other end
    elseif s.kind <= 3 then z = nn[s.op](x):clamp(-2, 2)
    elseif s.kind == 4 then z = x * y
    elseif s.kind == 5 then z = nn.F.dropout(x, 0.3)
    elseif s.kind == 6 then z = x:matmul(w) * 0.3
    elseif s.kind == 7 then
      z = x * 1
      z[{{1, 2}}]:mul_(y[{{2, 3}}])
    elseif s.kind == 8 then z = (x + nn.rand(1)):t():contiguous():t()
    else z = x:softmax(2) + y:mean() end
    v[#v + 1] = z
  end
  return v[#v], v[#v - 1] or v[1]
end

describe("random functions with checkpoints in one another", function()
  it("give the bits that they give without, eagerly and captured", function()
    local state = 4711
    local function random(n)
      state = (state * 1103515245 + 12345) % 2147483648
      return state // 65536 % n + 1
    end
    for trial = 1, 150 do
      local list, x, w = random_list(random, 3), nn.randn(4, 4), nn.randn(4, 4)
      local function everything(call, wrap)
        local input, weight = x:clone():requires_grad_(), w:clone():requires_grad_()
        local f = wrap(function(v)
          local a, b = run_list(list, call, weight, v, v * 0.5)
          local loss = a:sum() + (b * b):mean()
          loss:backward()
          return loss
        end)
        nn.manual_seed(trial)
        local loss = f(input):item()
        return {loss, input.grad:totable(), weight.grad and weight.grad:totable(), nn.rand(2):totable()}
      end
      local function itself(f) return f end
      local wanted = everything(plainly, itself)
      assert.same(wanted, everything(nn.checkpoint, itself), trial)
      assert.same(wanted, everything(nn.checkpoint, nn.compile), trial)
    end
  end)
end)
