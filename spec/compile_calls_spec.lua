-- nn.compile: what captured functions take and give, what is live in them, and what cannot be captured: an error that
-- says what to do.
local helpers = require "spec.helpers"
local nn = helpers.nn
local message, same = helpers.message, helpers.equal

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
    assert.matches("compile_calls_spec.lua:%d+: item: values cannot be read inside a captured function", message(f, x))
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
    assert.matches("compile_calls_spec.lua:%d+ was another one", text)
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
