-- Memory: limits, failing allocations, loops that do not grow, and tensors that scripts drop without a word.
-- NNLUA_OOM=all tries every allocation of every step instead of a sample.
local helpers = require "spec.helpers"
local nn = helpers.nn

local everything = os.getenv "NNLUA_OOM" == "all"

local function settle()
  collectgarbage()
  collectgarbage()
end

--- Runs a Lua text with one of the two programs, in a process of its own.
local function in_child(program, text, ...)
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  local status, out, err = helpers.spawn({program, path, ...})
  os.remove(path)
  return status, out, err
end

local programs = {helpers.build .. "/nnlua", os.getenv "LUA" or "lua5.4"}

---------------------------------------------------------------- limits

describe("The peaks of memory", function()
  it("are those since the last reset, with and without what is kept for reuse", function()
    settle()
    nn.memory "trim"
    local start = nn.memory "reset"
    assert.same({start.live, start.held}, {start.peak_live, start.peak})
    local x <close> = nn.zeros(1 << 18)
    nn.ones(1 << 20):free()
    local after = nn.memory()
    local wanted = start.live + (5 << 20)
    assert.is_true(after.peak_live >= wanted and after.peak_live < wanted + 10000)
    assert.is_true(after.peak >= after.peak_live and x ~= nil)
    after = nn.memory "reset"
    assert.is_true(after.peak_live == after.live and after.live < start.live + (1 << 20) + 10000)
    assert.is_true(after.peak == after.held)
  end)
end)

describe("The result of an op that is composed of others", function()
  it("owns its memory, so that dropped ones are found in time", function()
    settle()
    nn.memory "trim"
    local q = nn.randn(4, 256, 8)
    local start = nn.memory "reset"
    for _ = 1, 150 do nn.einsum("bqd,bkd->bqk", q, q) end -- 1 MB each
    assert.is_true(nn.memory().peak_live < start.live + (64 << 20))
  end)

  it("is a view still where it is one of an argument", function()
    local x = nn.tensor {{1, 2}, {3, 4}}
    nn.einsum("ij->ji", x):add_(1)
    assert.same({{2, 3}, {4, 5}}, x:totable())
    local y = nn.einsum("ij,jk->ki", x, nn.eye(2))
    y[1]:fill_(0)
    assert.same({{0, 0}, {3, 5}}, y:totable())
    assert.same({{2, 3}, {4, 5}}, x:totable())
  end)
end)

describe("A memory limit", function()
  local text = [[
    local nn = require "nnlua"
    local MB = 1 << 20
    nn.set_memory_limit(64 * MB)
    for _ = 1, 3 do
      local ok, message = pcall(nn.zeros, 5000, 5000)
      assert(not ok and message:find("out of memory", 1, true) and message:find("limit 67108864", 1, true), message)
    end
    local keep = {}
    local ok, message = pcall(function() for i = 1, 100 do keep[i] = nn.zeros(250000) end end)
    assert(not ok and message:find("memory", 1, true), message)
    assert(#keep >= 40 and #keep < 64, #keep)
    assert(nn.memory().held <= 64 * MB and nn.memory().peak <= 64 * MB)
    keep = nil
    for i = 1, 2000 do assert(nn.full({250000}, i)[1]:item() == i) end  -- what was dropped is found in time
    local net = nn.Sequential(nn.Linear(20, 50), nn.ReLU(), nn.Linear(50, 3))
    local opt, loss = nn.optim.Adam(net:parameters(), {lr = 0.01}), nn.CrossEntropyLoss()
    local x, y, first, last = nn.randn(64, 20), nn.randint(1, 3, {64})
    for i = 1, 200 do
      opt:zero_grad()
      local l = loss(net(x), y)
      l:backward()
      opt:step()
      first, last = first or l:item(), l:item()
      if i % 50 == 0 then assert(not pcall(nn.ones, 1 << 40) and not pcall(nn.ones, 1 << 25)) end
    end
    assert(last < first)
    assert(nn.memory().peak <= 64 * MB)
    print "done"
  ]]
  for _, program in ipairs(programs) do
    it("is an error that pcall catches, and everything goes on, in " .. program:match "[^/]+$", function()
      local _, out, err = in_child(program, text)
      assert.equal("done\n", out, err)
    end)
  end

  it("comes from the environment and the command line", function()
    local show = "print(require('nnlua').memory().limit)"
    local _, out = helpers.nnlua {"--memory-limit", "64M", "-e", show}
    assert.equal("67108864\n", out)
    _, out = helpers.spawn {"env", "NNLUA_MEMORY_LIMIT=1G", helpers.build .. "/nnlua", "-e", show}
    assert.equal("1073741824\n", out)
  end)

  it("is not exceeded by what the caches hold", function()
    local before = nn.memory()
    nn.memory "trim"
    local limit = nn.memory().held + (20 << 20)
    nn.set_memory_limit(limit)
    local ok, problem = pcall(function()
      for i = 1, 200 do
        local x <close> = nn.zeros(i * 20000) -- each of another size
        assert(nn.memory().held <= limit, x:numel())
      end
    end)
    nn.set_memory_limit(before.limit)
    assert.is_true(ok, problem)
  end)
end)

---------------------------------------------------------------- failing allocations

--- A step's makings, the same each time.
local function makings(optimizer, options)
  nn.manual_seed(7)
  local net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
  return {net = net, opt = nn.optim[optimizer](net:parameters(), options), loss = nn.CrossEntropyLoss(),
    x = nn.randn(6, 5), y = nn.tensor({1, 2, 3, 1, 2, 3}, "i64")}
end

local function train(m)
  nn.manual_seed(8)
  m.opt:zero_grad()
  local loss = m.loss(m.net(m.x), m.y)
  loss:backward()
  m.opt:step()
  return loss:item()
end

local function values(m)
  local all = {}
  for name, p in pairs(m.net:state_dict()) do all[name] = p:totable() end
  return all
end

local steps = {
  ["SGD"] = {make = function() return makings("SGD", {lr = 0.1, momentum = 0.9}) end, run = train},
  ["AdamW"] = {make = function() return makings("AdamW", {lr = 0.1}) end, run = train},
  ["second order"] = {
    make = function() return {x = nn.arange(1, 6):to("f32"):reshape(2, 3):requires_grad_()} end,
    run = function(m)
      local g = nn.grad((m.x * m.x):sigmoid():sum(), {m.x}, {create_graph = true})
      return (nn.grad((g * g):sum(), {m.x})):sum():item()
    end,
  },
  ["recurrent"] = {
    make = function()
      nn.manual_seed(7)
      local net = nn.LSTM(3, 4, 2, {bidirectional = true, proj_size = 2})
      return {net = net, x = nn.randn(5, 4, 3), opt = nn.optim.SGD(net:parameters(), {lr = 0.1})}
    end,
    run = function(m)
      m.net:zero_grad()
      local out, state = m.net(m.x)
      local loss = (out * out):sum() + state[2]:sum()
      loss:backward()
      return loss:item() + m.net.weight_hh_l0.grad:sum():item()
    end,
  },
  ["views and lists"] = {
    make = function() return {x = nn.arange(1, 12):to("f32"):reshape(3, 4):requires_grad_()} end,
    run = function(m)
      m.x.grad = nil
      local y = m.x * 1
      y[{{1, 2}, 2}]:mul_(3)
      y[3] = y[1]
      y[nn.tensor({true, false, true})] = 2
      local a, b = y:split(2, 2)
      nn.cat({a, b * 2, nn.stack({a, b}, 1):sum(1)}, 2):pow(2):sum():backward()
      return m.x.grad:sum():item()
    end,
  },
  ["pooling, then running statistics"] = {
    make = function()
      nn.manual_seed(7)
      return {net = nn.BatchNorm2d(3), opt = nn.optim.SGD({nn.zeros(1, {requires_grad = true})}, {lr = 0.1}),
        x = nn.randn(2, 3, 4, 4)}
    end,
    run = function(m)
      local x = m.x:detach():requires_grad_()
      nn.F.avg_pool2d(nn.F.max_pool2d(x, 2), 2):sum():backward()
      local y = m.net(x) -- the last thing that can fail
      return y ~= nil
    end,
  },
  ["checkpoints in one another"] = {
    make = function() return {x = nn.arange(1, 6):to("f32"):reshape(2, 3):requires_grad_()} end,
    run = function(m)
      m.x.grad = nil
      nn.manual_seed(8)
      nn.checkpoint(function(x)
        local y = nn.checkpoint(function(v) return nn.F.dropout(v:tanh(), 0.3) * v end, x * 2)
        y[1]:mul_(2)
        return y:exp()
      end, m.x):sum():backward()
      return m.x.grad:sum():item()
    end,
  },
  ["products of operands that are copied first"] = {
    make = function() return {x = nn.arange(1, 16):reshape(4, 4):to "i32"} end,
    run = function(m) return m.x:mm(m.x):sum():item() end,
  },
  ["text and tables"] = {
    make = function() return {} end,
    run = function()
      local x = nn.tensor({{3, 1}, {2, 5}})
      return #tostring(x:sort(2)) + #x:totable() + x.shape[1] + x:max(2)[1]:item() + nn.arange(10):sum():item()
    end,
  },
}

--- Tries request 1, 2, 3 ... of the step, up to `last` or the first success; each failure is an error about memory
--- that changes nothing.  Returns how many there were, and the number of the last request.
local function fail_all(name, sticky, last)
  local step = steps[name]
  local wanted = step.run(step.make()) -- and signatures are read
  local m = step.make()
  local state = m.net and values(m)
  local failures, at = 0, 0
  local good, result
  settle()
  local before = nn.memory()
  repeat
    at = at + ((everything or at < 12) and 1 or 1 + at // 10)
    nn.fail_allocation(at, sticky)
    good, result = pcall(step.run, m)
    nn.fail_allocation(0)
    if not good then
      failures = failures + 1
      assert.equal("string", type(result))
      assert.is_truthy(result:find("memory", 1, true), result)
      if m.net then
        m.opt:zero_grad()
        assert.same(state, values(m))
      end
      if m.x and m.x.requires_grad then m.x.grad = nil end
      if everything or failures % 10 == 1 then
        settle()
        assert.is_true(nn.memory().tensors <= before.tensors + (m.opt and 20 or 0), "tensors are lost") -- its state
      end
    end
    if good then assert.equal(wanted, result) end
    if last and m.net then m = step.make() end -- a step that succeeds moves its makings on
  until at > (last or 10000) or good and not last
  assert.is_true(good, "no success")
  return failures, at
end

describe("A failing allocation", function()
  local names = {}
  for name in pairs(steps) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    it("that stays one changes nothing but the step's end: " .. name, function()
      assert.is_true((fail_all(name, true)) > 0)
    end)
    it("is asked for once more after a collection: " .. name, function()
      local _, last = fail_all(name, true)
      assert.equal(0, (fail_all(name, false, last)))
    end)
  end

  it("is made up for by garbage", function()
    settle()
    nn.memory "trim"
    local held = nn.memory().held
    nn.set_memory_limit(held + (30 << 20))
    local ok, problem = pcall(function()
      for _ = 1, 10 do
        nn.zeros(5 << 20) -- 20 MB: one fits
      end
    end)
    nn.set_memory_limit(0)
    assert.is_true(ok, problem)
  end)

  it("is an error while the collector is stopped, and nothing is collected", function()
    settle()
    local alive = setmetatable({}, {__mode = "k"})
    alive[{}] = true
    collectgarbage "stop"
    alive[{}] = true
    nn.fail_allocation(1, true)
    local ok, message = pcall(nn.zeros, 3)
    nn.fail_allocation(0)
    local kept = next(alive) ~= nil
    collectgarbage "restart"
    assert.is_false(ok)
    assert.is_truthy(message:find("memory", 1, true))
    assert.is_true(kept)
  end)
end)

---------------------------------------------------------------- loops and chains

describe("A loop", function()
  local function tiny()
    local w = nn.tensor({0.5}, {requires_grad = true})
    local x, y = nn.tensor {1, 2, 3}, nn.tensor {2, 4, 6}
    local opt = nn.optim.SGD({w}, {lr = 0.01})
    return function()
      opt:zero_grad();
      (x * w - y):pow(2):mean():backward()
      opt:step()
    end, w
  end

  for _, mode in ipairs {"incremental", "generational"} do
    it("of 100 000 tiny training steps keeps memory flat: " .. mode, function()
      local step, w = tiny()
      for _ = 1, 1000 do step() end
      settle()
      nn.memory "trim"
      nn.memory "reset"
      local before = nn.memory()
      local old = collectgarbage(mode)
      for _ = 1, everything and 1000000 or 100000 do step() end
      collectgarbage(old)
      settle()
      local after = nn.memory()
      assert.equal(before.tensors, after.tensors)
      assert.is_true(after.live <= before.live + 1000, after.live - before.live)
      -- 32 MB that became old, half as much that did not, and what a collection takes to come
      assert.is_true(after.peak <= before.live + (64 << 20), after.peak - before.live)
      assert.is_true(math.abs(w:item() - 2) < 1e-4)
    end)
  end

  it("that collects at the same places asks the host for nothing", function()
    local m, step = makings("Adam", {lr = 0.01}), tiny()
    local function run(n)
      for i = 1, n do
        step()
        train(m)
        if i % 100 == 0 then settle() end
      end
    end
    local old = collectgarbage "incremental"
    collectgarbage "stop"
    run(300)
    local before = nn.memory()
    run(2000)
    local after = nn.memory()
    collectgarbage "restart"
    collectgarbage(old)
    assert.equal(before.calls, after.calls)
    assert.equal(before.live, after.live)
  end)
end)

describe("A chain of 100 000 ops", function()
  local function chain(n)
    local x = nn.tensor({1}, {requires_grad = true})
    local y = x
    for _ = 1, n do y = y + 1 end
    return x, y
  end

  it("is walked back and freed without recursion", function()
    settle()
    local before = nn.memory().tensors
    local x, y = chain(100000)
    assert.equal(100001, y:item())
    y:backward()
    assert.equal(1, x.grad:item())
    x, y = nil, nil -- luacheck: ignore
    settle()
    assert.equal(before, nn.memory().tensors)
  end)

  it("is freed when it was never walked, or retained, or of views and changes in place", function()
    settle()
    local before = nn.memory().tensors
    chain(100000)
    settle()
    assert.equal(before, nn.memory().tensors)
    local _, y = chain(100000)
    y:backward({retain_graph = true})
    _, y = nil, nil -- luacheck: ignore
    settle()
    assert.equal(before, nn.memory().tensors)
    local x = nn.ones(2, {requires_grad = true})
    y = x * 1
    for _ = 1, 20000 do y = y:view(2) y:add_(1) end
    y:sum():backward()
    assert.same({1, 1}, x.grad:totable())
    x, y = nil, nil -- luacheck: ignore
    settle()
    assert.equal(before, nn.memory().tensors)
  end)
end)

describe("A tensor changed in place after it was used", function()
  -- its history then holds the op that saved it for backward
  local w = nn.ones(3, {requires_grad = true})
  for name, make in pairs {
    ["by itself"] = function() local x = w * 1 x:mul_(x) end,
    ["by a product with it"] = function() local x = w * 1 x:add_(x * w) end,
    ["that was none of recorded ones"] = function() local x = nn.ones(3) x:add_(x * w) end,
    ["through a view of it"] = function() local x = nn.ones(3) x[1]:add_(x[2] * w[1]) end,
    ["row by row"] = function() local x = nn.zeros(4, 3) for i = 1, 3 do x[i + 1] = x[i] * w end end,
  } do
    it("is freed with its history: " .. name, function()
      make()
      settle()
      local before = nn.memory().tensors
      for _ = 1, 3 do make() end
      settle()
      assert.equal(before, nn.memory().tensors)
    end)
  end
end)

---------------------------------------------------------------- what scripts drop

describe("Tensors that are dropped", function()
  for _, program in ipairs(programs) do
    for _, what in ipairs {"large", "small"} do
      for _, mode in ipairs {"incremental", "generational"} do
        local name = ("%s ones, %s, in %s"):format(what, mode, program:match "[^/]+$")
        it("are found in time: " .. name, function()
          local status, out, err = helpers.spawn {program, helpers.folder .. "dropped.lua", what, mode}
          assert.equal(0, status, err)
          local seconds, fill, resident = out:match "^(%S+) (%S+) (%S+)"
          if os.getenv "NNLUA_FIGURES" then
            io.write(("\n%s: %.2f s, %.1f times as long as filling one buffer; %d MB"):format(name, seconds,
              seconds / fill, resident))
          end
          assert.is_true(tonumber(resident) < 120, resident .. " MB were resident")
        end)
      end
    end
  end
end)
