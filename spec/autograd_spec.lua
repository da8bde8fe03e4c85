-- The record that gradients follow: spoiled values, anomalies, backward and nn.grad, leaves, hooks.
local helpers = require "spec.helpers"
local nn = helpers.nn
local fails, leaf, holds = helpers.says, helpers.leaf, helpers.holds

---------------------------------------------------------------- versions

describe("A value that backward needs", function()
  local function spoiled(change, make)
    local x = leaf {1, 2, 3}
    local a = x * 2
    local b = make(a)
    change(a, b)
    fails(function() b:sum():backward() end, "backward of", "changed in place")
    assert.is_nil(x.grad)
  end
  local function square(a) return a * a end

  it("may not change in place, directly", function() spoiled(function(a) a:add_(1) end, square) end)
  it("may not change through a view", function() spoiled(function(a) a[1]:add_(1) end, square) end)
  it("may not change by an assignment", function() spoiled(function(a) a[1] = 0 end, square) end)
  it("may not change through a detached tensor", function() spoiled(function(a) a:detach():fill_(0) end, square) end)
  it("may not change inside no_grad", function()
    spoiled(function(a) nn.no_grad(function() a:add_(1) end) end, square)
  end)
  it("may not change as a result that its op has saved", function()
    spoiled(function(_, b) b:add_(1) end, function(a) return a:exp() end)
  end)
  it("may not change as a weight between forward and backward", function()
    local w, x = leaf {{1, 2}}, leaf {{3, 4}}
    local y = nn.F.linear(x, w)
    nn.no_grad(function() w:sub_(0.1) end)
    fails(function() y:sum():backward() end, "linear", "changed in place")
    assert.is_true(w.grad == nil and x.grad == nil)
  end)

  it("may change when it is not needed", function()
    local x = leaf {1, 2, 3}
    local a = x * 2
    a:add_(1)
    a:mul_(3)
    a:sum():backward()
    holds({6, 6, 6}, x.grad)
    x.grad = nil
    a = x * 2
    local b = a + 1
    a:fill_(0)
    b:sum():backward()
    holds({2, 2, 2}, x.grad)
  end)

  it("is named together with the script's line in anomaly mode", function()
    local before = nn.detect_anomaly(true)
    local x = leaf {1, 2}
    local a = x * 2
    local b = a * a
    local line = debug.getinfo(1, "l").currentline - 1
    a:add_(1)
    local message = helpers.error_of(function() b:sum():backward() end)
    nn.detect_anomaly(before)
    assert.is_truthy(message:find("autograd_spec.lua:" .. line, 1, true), message)
    assert.is_false(before)
  end)
end)

describe("Anomaly detection", function()
  local function message_of(f)
    nn.detect_anomaly(true)
    local _, message = pcall(f)
    nn.detect_anomaly(false)
    return message
  end

  it("names the op and the line that made the first NaN or infinity", function()
    local x = leaf {0, 1}
    local line = debug.getinfo(1, "l").currentline + 1
    local message = message_of(function() return x:log() end)
    assert.is_truthy(message:find("autograd_spec.lua:" .. line .. ": log: the result contains", 1, true), message)
  end)

  it("names the op whose gradient it is, and where that was recorded", function()
    local x = leaf {0, 1}
    local line = debug.getinfo(1, "l").currentline + 2
    local message = message_of(function()
      local y = x:sqrt()
      y:sum():backward()
    end)
    assert.is_truthy(message:find("backward of sqrt %(recorded at [^:]*autograd_spec.lua:" .. line .. "%)"), message)
    assert.is_nil(x.grad)
  end)
end)

---------------------------------------------------------------- gradients

describe("backward", function()
  it("adds to the gradients that stand, in the same tensor", function()
    local w = leaf {1, 2}
    assert.is_nil(w.grad);
    (w * w):sum():backward()
    local g = w.grad
    holds({2, 4}, g)
    assert.is_true(g == w.grad);
    (w * w):sum():backward()
    assert.is_true(g == w.grad)
    holds({4, 8}, g)
    w.grad = nil
    assert.is_nil(w.grad);
    (w * 3):sum():backward()
    holds({3, 3}, w.grad)
    holds({4, 8}, g)
    assert.is_false(w.grad.requires_grad)
  end)

  it("adds up what arrives on several ways", function()
    local x = leaf {1, 2}
    local y = x * 2
    local z = y + y * x + x
    z:sum():backward()
    holds({2 + 4 * 1 + 1, 2 + 4 * 2 + 1}, x.grad)
  end)

  it("takes a gradient for what is no single number", function()
    local x = leaf {1, 2, 3}
    local y = x * x
    fails(function() y:backward() end, "backward", "3", "single element")
    fails(function() y:backward(nn.ones(2)) end, "backward: the gradient is 2, but the tensor is 3")
    fails(function() y:backward(nn.ones(3, {dtype = "f64"})) end, "f64")
    fails(function() y:backward({gradients = nn.ones(3)}) end, "did you mean 'gradient'")
    y:backward(nn.tensor {1, 10, 100})
    holds({2, 40, 600}, x.grad);
    (x * x):backward({gradient = nn.ones(3)})
    holds({4, 44, 606}, x.grad)
    local one = leaf {{5}};
    (one * 2):backward() -- one element in two dimensions
    holds({{2}}, one.grad)
  end)

  it("takes its options by position or by name, and no others", function()
    local x = leaf {1, 2}
    local y = x * x
    y:backward(nn.ones(2), true) -- retain_graph
    y:backward(nn.ones(2), nil, {retain_graph = true})
    y:backward({gradient = nn.ones(2)})
    holds({6, 12}, x.grad)
    fails(function() (x * x):backward(nn.ones(2), false, false, 1) end, "takes at most 4 arguments, got 5",
      "parentheses")
    fails(function() (x * x):backward(nn.ones(2), {gradient = nn.ones(2)}) end, "gradient is given twice")
    fails(function() (x * x):backward({retain = true}) end, "there is no option 'retain'", "retain_graph")
    fails(function() (x * x):backward({nn.ones(2)}) end, "by name")
    fails(function() (x * x):backward(3) end, "gradient must be a tensor, got 3")
    fails(function() (x * x):sum():backward({retain_graph = 1}) end, "retain_graph must be true or false, got 1")
    holds({6, 12}, x.grad)
  end)

  it("of a leaf gives it 1", function()
    local w = leaf(3)
    w:backward()
    w:backward()
    assert.equal(2, w.grad:item())
  end)

  it("says why when there is nothing to follow", function()
    fails(function() nn.ones(2):sum():backward() end, "requires grad")
    local w = leaf {1}
    local y = nn.no_grad(function() return w * 2 end)
    fails(function() y:backward() end, "no_grad")
    fails(function() (w * 2):detach():backward() end, "requires grad")
  end)

  it("uses the graph up, unless it is retained", function()
    local x = leaf {1, 2}
    local y = (x * x):sum()
    y:backward({retain_graph = true})
    y:backward()
    holds({4, 8}, x.grad)
    fails(function() y:backward() end, "retain_graph")
    holds({4, 8}, x.grad)
  end)

  it("that meets a used part of the graph changes nothing", function()
    local x, w = leaf {1, 2}, leaf {3, 4}
    local shared = x * x
    local first, second = shared:sum(), (shared * w):sum()
    first:backward()
    holds({2, 4}, x.grad)
    fails(function() second:backward() end, "retain_graph")
    holds({2, 4}, x.grad)
    assert.is_nil(w.grad)
  end)

  it("of parts of a graph that save nothing can be repeated", function()
    local x = leaf {1, 2}
    local y = (x + 1):sum()
    assert.is_true(pcall(function() y:backward({retain_graph = true}) y:backward() end))
    holds({2, 2}, x.grad)
  end)

  it("leaves integers and what needs no gradient alone", function()
    local x, plain = leaf {1, 2}, nn.ones(2)
    local places = nn.tensor({2, 1}, "i64");
    (x:index_select(1, places) * plain):sum():backward()
    holds({1, 1}, x.grad)
    assert.is_nil(plain.grad)
    assert.is_false(x:gt(1).requires_grad)
    assert.is_false(x:to("i64").requires_grad)
    assert.is_false(x:argmax().requires_grad)
  end)

  it("converts gradients back to the types of their inputs", function()
    local a, b = leaf({1, 2}, "f32"), leaf({3, 4}, "f64")
    local y = a * b
    assert.equal("f64", y.dtype)
    y:sum():backward()
    assert.same({"f32", "f64"}, {a.grad.dtype, b.grad.dtype})
    holds({3, 4}, a.grad)
  end)

  it("sums over what was broadcast", function()
    local row, column, number = leaf {1, 2, 3}, leaf {{1}, {2}}, leaf(2);
    (row * column * number):sum():backward()
    holds({6, 6, 6}, row.grad)
    holds({{12}, {12}}, column.grad)
    assert.equal(18, number.grad:item())
  end)

  it("works in a coroutine, and finishes what it began", function()
    local x = leaf {1, 2}
    local thread = coroutine.wrap(function()
      local y = (x * x):sum()
      coroutine.yield()
      y:backward()
      return x.grad:totable()
    end)
    thread()
    collectgarbage()
    assert.same({2, 4}, thread())
  end)
end)

describe("nn.grad", function()
  it("takes torch's arguments by position or by name", function()
    local x = leaf {2, 3}
    holds({4, 60}, (nn.grad(x * x, x, nn.tensor {1, 10})))
    holds({4, 60}, (nn.grad(x * x, {x}, {grad_outputs = nn.tensor {1, 10}})))
    local y = (x * x):sum()
    holds({4, 6}, (nn.grad(y, x, nil, true)))
    local g, none = nn.grad(y, {x, leaf {1}}, nil, true, true, true)
    assert.is_true(g.requires_grad)
    assert.is_nil(none)
    fails(function() nn.grad(y, x, {create_grph = true}) end, "did you mean 'create_graph'")
    fails(function() nn.grad(y, x, {allow = true}) end, "there is no option 'allow'", "allow_unused")
    fails(function() nn.grad(y, x, nil, nil, nil, nil, 1) end, "takes at most 6 arguments, got 7")
    fails(function() nn.grad(nil, x) end, "grad: output must be a tensor, got nil")
    fails(function() nn.grad(y) end, "grad: inputs must be a tensor or a list of tensors, got nil")
  end)

  it("gives a result for each input and leaves .grad alone", function()
    local a, b = leaf {1, 2}, leaf {3, 4}
    local y = (a * b):sum()
    local ga, gb = nn.grad(y, {a, b}, {retain_graph = true})
    holds({3, 4}, ga)
    holds({1, 2}, gb)
    local gb2, ga2, more = nn.grad(y, {b, a}, {retain_graph = true})
    holds({1, 2}, gb2)
    holds({3, 4}, ga2)
    assert.is_nil(more)
    holds({3, 4}, (nn.grad(y, a)))
    assert.is_true(a.grad == nil and b.grad == nil)
    fails(function() return nn.grad(y, a) end, "retain_graph")
  end)

  it("reaches results inside the graph, and does not go behind them", function()
    local x = leaf {1, 2}
    local h = x * 3
    local y = (h * h):sum()
    local gh, gx = nn.grad(y, {h, x})
    holds({6, 12}, gh)
    holds({18, 36}, gx)
    y = (h:detach() * 2):sum()
    fails(function() return nn.grad(y, {h}) end, "requires grad")
  end)

  it("gives nil for what the result does not depend on, if that is allowed", function()
    local a, b, c = leaf {1}, leaf {2}, leaf {3}
    local y = a * c
    fails(function() return nn.grad(y, {a, b, c}, {retain_graph = true}) end, "input 2", "allow_unused")
    local ga, gb, gc = nn.grad(y, {a, b, c}, {allow_unused = true})
    assert.same({3, 1}, {ga:item(), gc:item()})
    assert.is_nil(gb)
    fails(function() return nn.grad(a * 2, {nn.ones(1)}) end, "input 1", "require grad")
    fails(function() return nn.grad(a * 2, {}, {allow_unsed = true}) end, "did you mean 'allow_unused'")
  end)

  it("takes a gradient of the result, and the same input twice", function()
    local x = leaf {1, 2}
    local g = nn.grad(x * x, {x}, nn.tensor {1, 10})
    holds({2, 40}, g)
    local a, b = nn.grad((x * x):sum(), {x, x})
    holds({2, 4}, a)
    holds({2, 4}, b)
  end)

  it("makes derivatives of any order", function()
    local x = leaf(2, "f64")
    local y = x ^ 4
    local wanted = {32, 48, 48, 24}
    for order = 1, 4 do
      y = nn.grad(y, {x}, {create_graph = order < 4})
      assert.is_true(math.abs(y:item() - wanted[order]) < 1e-9, order)
      assert.equal(order < 4, y.requires_grad)
    end
  end)

  it("of a mean over labels that are all ignored is 0, as that of no labels", function()
    for _, loss in ipairs {nn.F.cross_entropy, nn.F.nll_loss} do
      for _, create in ipairs {false, true} do
        local x = nn.ones(2, 3, {requires_grad = true})
        local l = loss(x, {2, 2}, {ignore_index = 2})
        assert(l:item() ~= l:item(), "a mean of nothing is NaN")
        holds({{0, 0, 0}, {0, 0, 0}}, nn.grad(l, {x}, {create_graph = create}))
      end
    end
  end)

  it("through backward leaves gradients that have a history", function()
    local x = leaf({1, 2, 3}, "f64");
    (x * x * x):sum():backward({create_graph = true})
    local g = x.grad
    assert.is_true(g.requires_grad)
    x.grad = nil
    g:sum():backward()
    holds({6, 12, 18}, x.grad)
    x.grad = nil -- a gradient with a history refers to its tensor
  end)
end)

describe("requires_grad", function()
  it("is switched on a leaf of floats only", function()
    local x = nn.ones(2)
    assert.is_true(x.is_leaf and not x.requires_grad)
    x.requires_grad = true
    assert.is_true(x.requires_grad)
    x.requires_grad = false
    assert.is_true(x:requires_grad_() == x and x.requires_grad)
    assert.is_false(x:requires_grad_(false).requires_grad)
    fails(function() nn.ones(2, {dtype = "i64"}).requires_grad = true end, "requires_grad", "i64")
    fails(function() return nn.ones(2, {dtype = "bool", requires_grad = true}) end, "bool")
    assert.is_true(nn.ones(2, {requires_grad = true}).requires_grad)
  end)

  it("of a result cannot be switched off", function()
    local y = leaf {1} * 2
    assert.is_true(y.requires_grad and not y.is_leaf)
    fails(function() y.requires_grad = false end, "detach")
    y.requires_grad = true
    assert.is_false(y.is_leaf)
  end)

  it("comes from any input", function()
    assert.is_true((leaf {1} + nn.ones(1)).requires_grad)
    assert.is_true((nn.ones(1) + leaf {1}).requires_grad)
    assert.is_false((nn.ones(1) + nn.ones(1)).requires_grad)
    assert.is_true(nn.cat({nn.ones(1), leaf {1}}).requires_grad)
  end)
end)

describe("The field grad", function()
  it("takes a tensor of the same shape and type, or nil", function()
    local w, g = leaf {1, 2}, nn.tensor {5, 6}
    w.grad = g
    assert.is_true(w.grad == g)
    fails(function() w.grad = nn.ones(3) end, "grad: ", "3", "2")
    fails(function() w.grad = nn.ones(2, {dtype = "f64"}) end, "f64")
    fails(function() w.grad = 1 end, "grad")
    assert.is_true(w.grad == g);
    (w * 2):sum():backward()
    holds({7, 8}, w.grad)
    holds({7, 8}, g)
    w.grad = nil
    assert.is_nil(w.grad)
  end)

  it("that is expanded is not written into", function()
    local w, one = leaf {1, 2}, nn.tensor {1}
    w.grad = one:expand(2);
    (w * 2):sum():backward()
    holds({3, 3}, w.grad)
    holds({1}, one)
  end)

  it("is read by methods and survives its tensor", function()
    local w = leaf {1, 2};
    (w * w):sum():backward()
    local g = w.grad
    w = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    holds({2, 4}, g)
  end)
end)

describe("no_grad", function()
  it("records nothing, gives its function's results, and ends on errors too", function()
    local w = leaf {1, 2}
    local y, n, none = nn.no_grad(function(a, b) return w * a, b, nil end, 2, 7)
    assert.is_false(y.requires_grad)
    assert.equal(7, n)
    assert.is_nil(none)
    assert.is_true(nn.is_grad_enabled())
    local marker = {}
    local ok, problem = pcall(nn.no_grad, function() error(marker) end)
    assert.is_true(not ok and problem == marker and nn.is_grad_enabled())
    nn.no_grad(function()
      assert.is_false(nn.is_grad_enabled())
      local z = nn.enable_grad(function() return w * 2 end)
      assert.is_true(z.requires_grad and not nn.is_grad_enabled())
      nn.no_grad(function() return nil end)
      assert.is_false(nn.is_grad_enabled())
    end)
    fails(function() nn.no_grad() end, "no_grad", "function")
  end)

  it("cannot be left by a yield", function()
    local thread = coroutine.create(function() nn.no_grad(function() coroutine.yield() end) end)
    assert.is_false((coroutine.resume(thread)))
    assert.is_true(nn.is_grad_enabled())
  end)

  it("holds for new tensors that ask for gradients: they are leaves", function()
    local w = nn.no_grad(function() return nn.ones(2, {requires_grad = true}) end)
    assert.is_true(w.requires_grad and w.is_leaf)
  end)
end)

---------------------------------------------------------------- hooks

describe("A hook", function()
  it("sees the whole gradient, of leaves and of results, in the order of adding", function()
    local x = leaf {1, 2}
    local y = x * 3
    local seen = {}
    local function note(name) return function(g) seen[#seen + 1] = {name, g:totable()} end end
    x:register_hook(note "x1")
    y:register_hook(note "y1")
    y:register_hook(note "y2")
    x:register_hook(note "x2");
    (y * y + y):sum():backward()
    assert.same({{"y1", {7, 13}}, {"y2", {7, 13}}, {"x1", {21, 39}}, {"x2", {21, 39}}}, seen)
  end)

  it("may put another gradient in its place", function()
    local x = leaf {1, 2}
    local y = x * 3
    y:register_hook(function(g) return g * 2 end)
    y:register_hook(function(g) return g + 1 end)
    x:register_hook(function(g) return -g end)
    y:sum():backward()
    holds({-9, -9}, x.grad)
  end)

  it("can be removed, also by itself and by another while they run", function()
    local x = leaf {1}
    local calls = {}
    local function add(name, f)
      return x:register_hook(function(g)
        calls[#calls + 1] = name
        if f then f(g) end
      end)
    end
    local a = add "a"
    local b, d
    b = add("b", function()
      b:remove()
      d:remove()
    end)
    add "c"
    d = add "d"
    a:remove()
    a:remove();
    (x * 2):sum():backward();
    (x * 2):sum():backward()
    assert.same({"b", "c", "c"}, calls)
  end)

  it("may add another one, which waits for the next time", function()
    local x = leaf {1}
    local count = 0
    x:register_hook(function() x:register_hook(function() count = count + 1 end) end);
    (x * 2):sum():backward()
    assert.equal(0, count);
    (x * 2):sum():backward()
    assert.equal(1, count)
  end)

  it("that fails stops backward, and no gradient changes", function()
    local x, w = leaf {1, 2}, leaf {3, 4}
    local y = x * w
    y:register_hook(function() error("no further") end)
    fails(function() y:sum():backward() end, "no further")
    assert.is_true(x.grad == nil and w.grad == nil)
    local z = x * w
    z:register_hook(function() error({}) end)
    fails(function() z:sum():backward() end, "hook")
    x:register_hook(function() error("late") end)
    fails(function() (x * w):sum():backward() end, "late")
    assert.is_true(x.grad == nil and w.grad == nil)
  end)

  it("that fails names its line once", function()
    local x = leaf {1, 2}
    x:register_hook(function() error("here") end)
    local line = debug.getinfo(1, "l").currentline - 1
    local _, message = pcall(function() x:sum():backward() end)
    assert.is_truthy(message:find("^[^:]*autograd_spec.lua:" .. line .. ": here$"), message)
  end)

  it("must return a tensor like the gradient, or nil", function()
    local x = leaf {1, 2}
    local function with(result)
      local y = x * 2
      y:register_hook(function() return result end)
      return function() y:sum():backward() end
    end
    fails(with(nn.ones(3)), "register_hook", "shape")
    fails(with(nn.ones(2, {dtype = "f64"})), "register_hook")
    fails(with(5), "register_hook", "tensor or nil")
    assert.is_nil(x.grad)
    fails(function() nn.ones(2):register_hook(print) end, "register_hook", "require grad")
    fails(function() x:register_hook(5) end, "function")
  end)

  it("may collect garbage, compute, and walk back through another graph", function()
    local x, w = leaf {1, 2}, leaf {5, 6}
    local y = x * 3
    y:register_hook(function(g)
      collectgarbage()
      local extra = nn.enable_grad(function() -- off in here, as create_graph is
        (w * w):sum():backward()
        return nn.grad((w * 2):sum(), {w})
      end)
      return g + extra
    end)
    y:sum():backward()
    holds({9, 9}, x.grad)
    holds({10, 12}, w.grad)
  end)

  it("may not walk back through the graph that is being walked", function()
    local x = leaf {1, 2}
    local h = x * 3
    local loss = (h * h):sum()
    local message
    h:register_hook(function()
      message = helpers.error_of(function() return nn.grad(loss, {x}, {retain_graph = true}) end)
    end)
    loss:backward()
    assert.is_truthy(message and message:find("hook", 1, true), message)
    holds({18, 36}, x.grad)
  end)

  it("in a coroutine can fail with that coroutine's line", function()
    local x = leaf {1, 2}
    local line
    local thread = coroutine.create(function()
      local y = x * 2
      y:register_hook(function()
        line = debug.getinfo(1, "l").currentline + 1
        return nn.ones(2, 3):matmul(nn.ones(2, 3))
      end)
      y:sum():backward()
    end)
    local ok, message = coroutine.resume(thread)
    assert.is_false(ok)
    assert.is_truthy(message:find("autograd_spec.lua:" .. line .. ": matmul: ", 1, true), message)
  end)

  it("goes with its tensor", function()
    local alive = setmetatable({}, {__mode = "k"})
    do
      local x = leaf {1, 2}
      local big = {}
      alive[big] = true
      local y = x * 2
      y:register_hook(function() return big and nil end)
      x:register_hook(function() return big and nil end)
    end
    collectgarbage()
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(alive))
  end)
end)
