-- Tensors as Lua values, their views, changes in place, and the record that gradients follow.
local helpers = require "spec.helpers"
local nn = helpers.nn

---------------------------------------------------------------- help

local function leaf(list, dtype) return nn.tensor(list, {dtype = dtype, requires_grad = true}) end

--- The elements are exactly these.
local function holds(wanted, x)
  assert.same(wanted, x:totable())
end

--- f() fails, its message has all the texts; returns the message.
local function fails(f, ...)
  local message = helpers.error_of(f)
  assert(message, "no error")
  for _, text in ipairs {...} do
    assert(message:find(text, 1, true), ("'%s' is not in: %s"):format(text, message))
  end
  return message
end

--- f() fails and neither the values nor the version of x are others after it.
local function leaves(x, f, ...)
  local before, version = x:totable(), x:version()
  local message = fails(f, ...)
  assert.same(before, x:totable())
  assert.equal(version, x:version())
  return message
end

---------------------------------------------------------------- values

describe("A tensor as a Lua value", function()
  it("is equal to itself only, and serves as a key", function()
    local x, y = nn.tensor {1, 2}, nn.tensor {1, 2}
    assert.is_true(x == x and x ~= y)
    local t = {[x] = "x", [y] = "y"}
    assert.equal("x", t[x])
    assert.equal("y", t[y])
    assert.is_true(x:equal(y))
  end)

  it("keeps its identity through ops that have nothing to do", function()
    local x = nn.ones(2, 3)
    assert.is_true(x:contiguous() == x)
    assert.is_true(x:to("f32") == x)
    assert.is_true(x:add_(1) == x)
    assert.is_false(x:clone() == x)
  end)

  it("knows its shape, a fresh list that compares by value", function()
    local x = nn.zeros(2, 3)
    local shape = x.shape
    assert.is_true(shape == x.shape and not rawequal(shape, x.shape))
    shape[1] = 7
    assert.equal("2x3", tostring(x.shape))
    assert.equal("0-d", tostring(nn.tensor(1).shape))
    assert.equal("shape 2x3", "shape " .. x.shape)
    assert.same({2, 3, 2, 6, 2}, {x:size(1), x:size(-1), x:dim(), x:numel(), #x})
    assert.same({3, 1}, {x:stride()[1], x:stride()[2]})
    fails(function() return x:size(3) end, "size: dim is 3", "1 to 2 (or -2 to -1)")
    fails(function() return x:size(0) end, "size: dim is 0")
    fails(function() return #nn.tensor(1) end, "0-d", "item()")
  end)

  it("compares by < and <= when it has one element, and says which method compares all", function()
    local a, b = nn.tensor(1), nn.tensor({2.5})
    assert.is_true(a < b and a <= b and b > a and a <= 1 and a < 2 and 0 < a)
    local less = b < a
    assert.is_false(less)
    assert.is_false(nn.tensor(0 / 0) < 1)
    fails(function() return nn.ones(2) < 1 end, "lt")
    fails(function() return nn.ones(2) >= nn.ones(2) end, "le")
    fails(function() return nn.tensor(1) < "2" end, "lt")
  end)

  it("joins strings by its number, or by its text", function()
    assert.equal("loss 1.5", "loss " .. nn.tensor(1.5))
    assert.equal("0.1 of", nn.tensor({0.1}) .. " of")
    assert.equal("0.1", "" .. nn.tensor(0.1, "f64"))
    assert.equal("7!", nn.tensor(7, "i64") .. "!")
    assert.equal("true", "" .. nn.tensor(true))
    assert.is_truthy((nn.tensor {1, 2} .. ""):find("[f32 2]", 1, true))
  end)

  it("chooses by a condition: its method where has the condition second", function()
    local x = nn.tensor {1, -2, 3}
    holds({1, 0, 3}, x:where(x:gt(0), 0))
    holds({1, 7, 3}, x:where(x:gt(0), nn.tensor {6, 7, 8}))
    fails(function() return x:where(x, 0) end, "where: condition must be bool")
    fails(function() return x:where(0) end, "where: condition must be a tensor")
  end)

  it("is walked by pairs, along its first dimension", function()
    local rows = {}
    for i, row in pairs(nn.tensor {{1, 2}, {3, 4}, {5, 6}}) do rows[i] = row:totable() end
    assert.same({{1, 2}, {3, 4}, {5, 6}}, rows)
    for _ in pairs(nn.zeros(0, 2)) do error("an empty tensor has no rows") end
  end)

  it("gives numbers of Lua's types", function()
    assert.equal("float", math.type(nn.tensor(1):item()))
    assert.equal("integer", math.type(nn.tensor(1, "u8"):item()))
    assert.equal(true, nn.tensor({true}):item())
    fails(function() return nn.ones(2):item() end, "item: the tensor (2) has 2 elements", "totable()")
    assert.same({}, nn.zeros(0):totable())
    assert.equal(0.5, nn.tensor(0.5):totable())
    holds({{1, 3}, {2, 4}}, nn.tensor({{1, 2}, {3, 4}}):t())
  end)

  it("names the nearest field when there is none", function()
    local x = nn.ones(2)
    fails(function() return x.requires_grads end, "requires_grads", "did you mean 'requires_grad'")
    fails(function() return x:matmull(x) end, "did you mean 'matmul'")
    fails(function() x.name = "x" end, "field 'name' cannot be set", "grad and requires_grad")
    assert.equal("string", type(getmetatable(x)))
  end)

  it("raises errors that stand at the caller's line", function()
    local line = debug.getinfo(1, "l").currentline + 1
    local ok, message = pcall(function() local y = nn.ones(2, 3):matmul(nn.ones(2, 3)) return y end)
    assert.is_false(ok)
    assert.is_truthy(message:find("tensor_spec.lua:" .. line .. ": matmul: ", 1, true), message)
    local thread = coroutine.create(function() local y = nn.ones(2, 3):matmul(nn.ones(2, 3)) return y end)
    line = debug.getinfo(1, "l").currentline - 1
    ok, message = coroutine.resume(thread)
    assert.is_false(ok)
    assert.is_truthy(message:find("tensor_spec.lua:" .. line .. ": matmul: ", 1, true), message)
  end)
end)

describe("Printing", function()
  local function prints(wanted, x) assert.equal(wanted, tostring(x)) end

  it("shows values that align, then type and shape", function()
    prints("{{1., 2., 3.},\n {4., 5., 6.}}\n[f32 2x3]", nn.tensor {{1, 2, 3}, {4, 5, 6}})
    prints("{{1., 4.},\n {2., 5.}}\n[f32 2x2]", nn.tensor({{1, 2}, {4, 5}}):t())
    prints("{1, 2}\n[i64 2]", nn.tensor({1, 2}, "i64"))
    prints("{ -1, 200}\n[i32 2]", nn.tensor({-1, 200}, "i32"))
    prints("{ true, false}\n[bool 2]", nn.tensor {true, false})
  end)

  it("shows a 0-d tensor on one line", function()
    prints("3.5  [f32 0-d]", nn.tensor(3.5))
    prints("true  [bool 0-d]", nn.tensor(true))
    prints("-7  [i64 0-d]", nn.tensor(-7, "i64"))
  end)

  it("says that gradients are wanted", function()
    prints("{1.}\n[f32 1, requires_grad]", leaf {1})
    assert.is_truthy(tostring(leaf {1} * 2):find("requires_grad", 1, true))
  end)

  it("shows numbers of different sizes, infinities and NaN", function()
    local text = tostring(nn.tensor {1e-10, 1e10, 0 / 0, -1 / 0})
    for _, piece in ipairs {"1.0000e-10", "1.0000e+10", "nan", "-inf"} do
      assert.is_truthy(text:find(piece, 1, true), text)
    end
  end)

  it("leaves out the middle of what is large", function()
    prints("{   1,    2,    3, ..., 2998, 2999, 3000}\n[i64 3000]", nn.arange(1, 3000))
    local text = tostring(nn.zeros(100, 100))
    local _, lines = text:gsub("\n", "")
    assert.is_true(lines < 20 and text:find("...", 1, true) ~= nil)
    assert.is_true(#tostring(nn.zeros(2, 2, 2, 2, 2, 2, 2, 2)) > 0)
  end)
end)

---------------------------------------------------------------- life

describe("A freed tensor", function()
  it("is an error wherever it is used", function()
    local x, y = nn.ones(2), nn.ones(2)
    x:free()
    x:free() -- again: nothing
    assert.equal("freed tensor", tostring(x))
    assert.is_true(nn.is_tensor(x))
    fails(function() return x + 1 end, "add", "freed")
    fails(function() return 1 - x end, "freed")
    fails(function() return y * x end, "freed")
    fails(function() return -x end, "freed")
    fails(function() return x:sum() end, "sum", "freed")
    fails(function() return nn.matmul(y, x) end, "matmul", "freed")
    fails(function() return nn.cat {y, x} end, "freed")
    fails(function() return x.shape end, "freed")
    fails(function() return x[1] end, "freed")
    fails(function() x[1] = 1 end, "freed")
    fails(function() y[1] = x end, "freed")
    fails(function() return #x end, "freed")
    fails(function() return x < 1 end)
    fails(function() for _ in pairs(x) do error("unreachable") end end, "freed")
    fails(function() return x:item() end, "freed")
    fails(function() return x:backward() end, "freed")
    fails(function() return x:detach() end, "freed")
    fails(function() x.grad = nil end, "freed")
    fails(function() x.requires_grad = true end, "freed")
    fails(function() y.grad = x end, "freed")
    fails(function() return x:register_hook(print) end, "freed")
    fails(function() return nn.tensor(x) end, "freed")
    fails(function() return nn.grad(y, {x}) end)
  end)

  it("leaves its views and its graph as they are", function()
    local x = leaf {1, 2, 3}
    local y = x * 2
    local v, loss = y[{{2, 3}}], (y * y):sum()
    y:free()
    holds({4, 6}, v)
    loss:backward()
    holds({8, 16, 24}, x.grad)
  end)

  it("goes at the end of a <close> block, on errors too", function()
    local kept
    do
      local x <close> = nn.ones(1000)
      kept = x
      assert.equal(1000, x:numel())
    end
    fails(function() return kept:numel() end, "freed")
    pcall(function()
      local x <close> = nn.ones(2)
      kept = x
      error "stop"
    end)
    fails(function() return kept:numel() end, "freed")
  end)

  it("gives its memory back at once", function()
    collectgarbage()
    collectgarbage() -- what other specs have left does not go in between
    local before = nn.memory()
    local x = nn.zeros(1000000)
    assert.is_true(nn.memory().live - before.live >= 4000000)
    x:free()
    assert.equal(before.live, nn.memory().live)
    assert.equal(before.tensors, nn.memory().tensors)
  end)
end)

---------------------------------------------------------------- sizes beyond reason

describe("A size", function()
  it("beyond all memory is an error, whatever it is computed from", function()
    local huge = 1 << 62
    fails(function() nn.bincount({1, 2}, nil, huge) end, "bincount", "too large")
    fails(function() nn.bincount {math.maxinteger} end, "bincount", "too large")
    fails(function() nn.F.one_hot({1, 2}, huge) end, "one_hot", "too large")
    fails(function() nn.F.one_hot {math.maxinteger} end, "one_hot", "too large")
    fails(function() nn.ones(1):expand(huge, huge) end, "expand", "too large")
    fails(function() nn.ones(0):reshape(0, huge, huge) end, "reshape", "too large")
    assert.same({2, 0}, nn.F.maxout(nn.ones(2, 0, {requires_grad = true}), huge).shape)
  end)

  it("of a weight that would enlarge the loss is an error that names the weight", function()
    local x, y = nn.full({3}, 0.5), nn.ones(3)
    fails(function() nn.F.binary_cross_entropy(x, y, nn.ones(1, 1)) end, "entropy: weight (1x1)", "input (3)")
    fails(function() nn.F.binary_cross_entropy(x[1], y[1], nn.ones(0)) end, "entropy: weight (0)", "input (0-d)")
    fails(function() nn.F.binary_cross_entropy_with_logits(x, y, nn.ones(3), {pos_weight = nn.ones(1, 3)}) end,
      "pos_weight (1x3)", "input (3)")
    fails(function() nn.F.binary_cross_entropy(x, y, nn.ones(2)) end, "weight (2)", "do not broadcast")
  end)
end)

---------------------------------------------------------------- types

describe("Types", function()
  -- torch.result_type: the rank within a table of torch's documentation.
  local rank = {bool = 1, u8 = 2, i32 = 3, i64 = 4, f32 = 5, f64 = 6}
  local category = {bool = 1, u8 = 2, i32 = 2, i64 = 2, f32 = 3, f64 = 3}
  local types = {"bool", "u8", "i32", "i64", "f32", "f64"}

  local function one(dtype) return nn.ones(2, {dtype = dtype}) end
  local function zero_d(dtype) return one(dtype)[1] end
  local function higher(a, b) return rank[a] >= rank[b] and a or b end

  it("of two tensors with dimensions promote to the higher", function()
    for _, a in ipairs(types) do
      for _, b in ipairs(types) do
        assert.equal(higher(a, b), (one(a) + one(b)).dtype, a .. " + " .. b)
        assert.equal(higher(a, b), (zero_d(a) * zero_d(b)).dtype, a .. " * " .. b .. " of 0-d")
        assert.equal(higher(a, b), nn.maximum(one(a), one(b)).dtype)
        assert.equal("bool", one(a):lt(one(b)).dtype)
        assert.equal(higher(a, b), nn.where(nn.tensor {true, false}, one(a), one(b)).dtype)
      end
    end
    -- the pairs that torch's documentation names
    assert.equal("i64", (one "i32" + one "i64").dtype)
    assert.equal("f32", (one "i64" + one "f32").dtype)
    assert.equal("u8", (one "bool" + one "u8").dtype)
  end)

  it("of a 0-d tensor count only when its category is higher", function()
    for _, a in ipairs(types) do
      for _, b in ipairs(types) do
        local wanted = category[b] > category[a] and b or a
        assert.equal(wanted, (one(a) + zero_d(b)).dtype, a .. " + 0-d " .. b)
        assert.equal(wanted, (zero_d(b) + one(a)).dtype, "0-d " .. b .. " + " .. a)
      end
    end
  end)

  it("of Lua numbers: an integer takes the tensor's type, a float makes integers f32", function()
    local wanted = {
      bool = {"i64", "f32"}, u8 = {"u8", "f32"}, i32 = {"i32", "f32"}, i64 = {"i64", "f32"}, f32 = {"f32", "f32"},
      f64 = {"f64", "f64"},
    }
    for dtype, results in pairs(wanted) do
      for _, x in ipairs {one(dtype), zero_d(dtype)} do
        assert.equal(results[1], (x + 1).dtype, dtype .. " + 1")
        assert.equal(results[1], (1 + x).dtype, "1 + " .. dtype)
        assert.equal(results[2], (x + 1.0).dtype, dtype .. " + 1.0")
        assert.equal(results[2], (0.5 * x).dtype, "0.5 * " .. dtype)
      end
    end
    holds({true, true}, (one "bool" + one "bool"))
    holds({1.5, 1.5}, (one "bool" + 0.5))
  end)

  it("of division, roots and means are floating", function()
    for _, dtype in ipairs(types) do
      local wanted = category[dtype] == 3 and dtype or "f32"
      assert.equal(wanted, (one(dtype) / 2).dtype, dtype)
      assert.equal(wanted, (one(dtype) / one(dtype)).dtype, dtype)
      assert.equal(wanted, one(dtype):sqrt().dtype, dtype)
      assert.equal(wanted, one(dtype):mean().dtype, dtype)
    end
    assert.equal("i64", one("bool"):sum().dtype)
    assert.equal("i64", one("u8"):sum().dtype)
  end)

  it("of a tensor changed in place stay, and a higher category is refused", function()
    for _, a in ipairs(types) do
      for _, b in ipairs(types) do
        local x = one(a)
        if category[higher(a, b)] > category[a] then
          leaves(x, function() x:add_(one(b)) end, "add_", a)
        else
          assert.equal(a, x:add_(one(b)).dtype, a .. " add_ " .. b)
        end
      end
    end
    local x = one "i64"
    leaves(x, function() x:add_(0.5) end, "i64")
    leaves(x, function() x:div_(2) end, "i64")
    holds({3, 3}, x:add_(2))
    holds({5, 5}, nn.ones(2):fill_(5))
    holds({1, 2}, nn.zeros(2, {dtype = "i64"}):copy_(nn.tensor {1.9, 2.2}))
  end)

  it("of what is filled or scattered into stay, and a tensor of a higher category is refused", function()
    local x, mask = nn.tensor({1, 2}, "i64"), nn.tensor {true, false}
    holds({7, 2}, x:masked_fill(mask, 7.5))
    assert.equal("i64", x:masked_fill(mask, 7.5).dtype)
    assert.equal("bool", mask:masked_fill(mask, 3).dtype)
    assert.equal("i64", x:scatter(1, {1}, 7.5).dtype)
    assert.equal("f32", nn.zeros(2):scatter_add(1, {1}, nn.ones(1, {dtype = "f64"})).dtype)
    leaves(x, function() x:scatter_(1, {1}, nn.tensor {2.5}) end, "scatter_: src is f32", "i64")
    leaves(x, function() x:masked_fill_(mask, nn.tensor(2.5)) end, "masked_fill_: value is f32", "i64")
  end)

  it("of an option dtype are those that the op can compute in", function()
    local x = nn.ones(2)
    fails(function() return x:mean({dtype = "i64"}) end, "mean: dtype must be f32 or f64, got i64")
    fails(function() return x:softmax(1, "bool") end, "softmax: dtype must be f32 or f64, got bool")
    fails(function() return x:sum({dtype = "i63"}) end, "sum: dtype must be the name of a type")
  end)

  it("bool alone is no number for quotients and powers", function()
    local m = nn.tensor {true, false}
    for _, op in ipairs {"floor_divide", "remainder", "fmod", "pow"} do
      leaves(m, function() m[op](m, m) end, op .. ":", "bool", ':to("i64")')
    end
    holds({false, false}, m:clamp(nn.tensor(false), nn.tensor {false, true}))
    local i = nn.tensor({1, 2}, "i64")
    leaves(i, function() i:pow_(-1) end, "pow_: exponent is -1", ':to("f32")')
    holds({1, 0}, i ^ nn.tensor({-1, -1}, "i64"))
  end)

  it("of lists: numbers f32, booleans bool, as asked", function()
    assert.equal("f32", nn.tensor({1, 2}).dtype)
    assert.equal("bool", nn.tensor({true, false}).dtype)
    assert.equal("f32", nn.tensor({true, 1}).dtype)
    assert.equal("i64", nn.tensor({1, 2}, "i64").dtype)
    assert.equal("u8", nn.tensor({1, 2}, {dtype = "u8"}).dtype)
    fails(function() return nn.tensor({1.5}, "i64") end, "i64")
    fails(function() return nn.tensor({1}, "i63") end, "i63", "i64")
    fails(function() return nn.tensor({{1, 2}, {3}}) end, "uneven")
    fails(function() return nn.tensor({1, {2}}) end, "tensor: the element at 2 is a table")
    fails(function() return nn.tensor({1, "2"}) end, 'the element at 2 is the string "2"')
    fails(function() return nn.tensor({1}, {dtypes = "i64"}) end, "did you mean 'dtype'")
  end)

  it("come from lists that hold what the type holds, and nothing else", function()
    holds({2 ^ 53, 3}, nn.tensor({2 ^ 53, 3.0}, "i64"))
    holds({-2 ^ 31, 2 ^ 31 - 1}, nn.tensor({-2 ^ 31, 2 ^ 31 - 1}, "i32"))
    holds({0, 255}, nn.tensor({0, 255}, "u8"))
    for _, case in ipairs {{256, "u8"}, {-1, "u8"}, {2 ^ 31, "i32"}, {-2 ^ 31 - 1, "i32"}, {2 ^ 63, "i64"},
      {1 / 0, "i64"}} do
      fails(function() nn.tensor({0, case[1]}, case[2]) end, "the element at 2 is ", case[2] .. " does not hold")
    end
    fails(function() nn.tensor({{1, 2}, {3, 0 / 0}}, "i64") end, "the element at {2, 2} is nan, not an integer")
    fails(function() nn.tensor(nil) end, "data is missing")
    fails(function() nn.tensor {1, nil, 3} end, "tensor: the element at 2 is nil")
    fails(function() nn.tensor {nn.ones(2), nn.ones(2)} end, "the element at 1 is a tensor (2)", "nn.stack")
    fails(function() nn.tensor {1, 2, dtype = "f64"} end, "the list has a field 'dtype'")
    fails(function() nn.tensor {dtype = "f64"} end, "the list has a field 'dtype'")
    fails(function() nn.tensor {1, 2, [9] = 3} end, "a gap behind its 2 elements")
    fails(function() nn.tensor({1}, "f64", true, 1) end, "takes at most 3 arguments, got 4")
    assert.is_true(nn.tensor({1}, nil, true).requires_grad)
  end)

  it("take requires_grad where they are made", function()
    for _, x in ipairs {nn.zeros(2, {requires_grad = true}), nn.linspace(0, 1, 3, {requires_grad = true}),
      nn.full({2}, 1, {requires_grad = true}), nn.zeros_like(nn.ones(2), {requires_grad = true}),
      nn.randn_like(nn.ones(2), {requires_grad = true})} do
      assert.is_true(x.requires_grad and x.is_leaf)
    end
    assert.is_false(nn.ones_like(nn.ones(2, {requires_grad = true})).requires_grad)
    local seed, call = nn.rng_state()
    fails(function() nn.randn(2, {requires_grad = 1}) end, "randn: requires_grad must be true or false, got 1")
    assert.same({seed, call}, {nn.rng_state()})
  end)

  it("take sizes and dimensions one by one or as one list", function()
    local function shape(x) return tostring(x.shape) end
    assert.equal("4x2", shape(nn.randint(1, 6, 4, 2)))
    assert.equal("4x2", shape(nn.randint(1, 6, {4, 2})))
    assert.equal("f32", nn.randint(1, 6, 4, 2, {dtype = "f32"}).dtype)
    assert.equal("3", shape(nn.ones(1, 3, 1):squeeze(1, 3)))
    assert.equal("3", shape(nn.ones(1, 3, 1):squeeze({1, -1})))
    assert.equal("3x1", shape(nn.ones(1, 3, 1):squeeze(1)))
    assert.equal("3", shape(nn.ones(1, 3, 1):squeeze()))
    assert.equal("5x2x3", shape(nn.ones(5, 6):unflatten(2, 2, 3)))
    assert.equal("5x2x3", shape(nn.ones(5, 6):unflatten(2, {2, -1})))
    assert.equal("5x2x3", shape(nn.Unflatten(2, 2, 3)(nn.ones(5, 6))))
  end)

  it("have every method as a function too", function()
    local x = nn.ones(2, 3)
    assert.equal(3, nn.size(x, 2))
    assert.equal(2, nn.dim(x))
    assert.equal(6, nn.numel(x))
    assert.is_true(nn.is_contiguous(x))
    assert.is_true(nn.requires_grad_(nn.ones(1)).requires_grad)
    nn.free(x)
    fails(function() return x:sum() end, "freed")
    for _, name in ipairs {"stride", "register_hook", "backward", "item", "totable", "equal", "detach"} do
      assert.is_function(nn[name])
    end
  end)

  it("say what a call wants that is nearly right", function()
    local x = nn.ones(2, 3)
    fails(function() return x.size(1) end, "size: argument 1 must be a tensor, got 1", "x:size()")
    fails(function() return x.item() end, "x:item()")
    fails(function() return x:size(1, 2) end, "takes at most 2 arguments, got 3")
    fails(function() return x < 3 end, "lt: only tensors of one element", "a:lt(b)")
    fails(function() return x >= 3 end, "got a tensor (2x3)", "a:lt(b)", "a:ge(b)")
    fails(function() return nn.ones(1) < "a" end, 'lt: operand 2 must be a tensor or a number, got the string "a"')
    fails(function() x.requires_grad = 1 end, "requires_grad: the value must be true or false, got 1")
    fails(function() x.grad = 1 end, "grad: the value must be a tensor or nil, got 1")
    fails(function() return x:shape() end, "shape: it is a field", "x.shape", "x:size(1)")
    fails(function() return x:float() end, 'there is no field or method \'float\'; it is x:to("f32")')
    fails(function() return x:tolist() end, "x:totable()")
    fails(function() return nn.cat({x, 3}) end, "cat: tensors must be a list of tensors, but number 2 is 3")
    fails(function() return nn.stack({x, nil, x, false}) end, "stack: tensors must be a list", "number 2 is nil")
    fails(function() x[1] = {1, 2, 3} end, "assignment:", "got a table; nn.tensor makes a tensor of a list")
    fails(function() x[1] = nil end, "assignment:", "got nil")
    fails(function() return x[1.5] end, "the subscript is 1.5")
    fails(function() return x[{{1, 2.5}}] end, "range for dimension 1 must hold integers, got 2.5")
    fails(function() return x[{1, "a"}] end, 'got the string "a"')
    fails(function() for _ in ipairs(x) do assert.is_true(true) end end, "position 3 is out of range", "pairs goes")
    fails(function() nn.no_grad(x) end, "no_grad: argument 1 must be a function, got a tensor (2x3)")
    fails(function() nn.detect_anomaly("yes") end, "detect_anomaly: on must be true or false")
  end)

  it("of positions are integers", function()
    local rows = nn.ones(5, 2)
    fails(function() return nn.F.embedding({1, 6}, rows) end, "embedding: input is 6 at 2", "positions 1 to 5")
    fails(function() return nn.F.embedding({{1, -1}}, rows) end, "embedding: input is -1 at {1, 2}", "positions 1 to 5")
    fails(function() return nn.F.embedding({math.mininteger}, rows) end, "positions 1 to 5")
    assert.is_nil(fails(function() return nn.F.embedding({0}, rows) end, "input is 0"):find("or -", 1, true))
    fails(function() return nn.ones(3):index_select(1, nn.tensor {1, 2}) end, ':to("i64")')
  end)
end)

---------------------------------------------------------------- views

describe("A view", function()
  it("shares the elements of its base, in both directions", function()
    local x = nn.arange(1, 6):to("f32"):reshape(2, 3)
    local row, column, all, turned = x[1], x[{{}, 2}], x:view(6), x:t()
    row:mul_(10)
    holds({{10, 20, 30}, {4, 5, 6}}, x)
    holds({20, 5}, column)
    x[{2, 3}] = 60
    holds({10, 20, 30, 4, 5, 60}, all)
    turned[1]:fill_(0)
    holds({{0, 20, 30}, {0, 5, 60}}, x)
  end)

  it("can be the source of a change in place of what it overlaps", function()
    local x = nn.tensor {1, 2, 3, 4}
    x[{{2, 4}}]:copy_(x[{{1, 3}}])
    holds({1, 1, 2, 3}, x)
    x = nn.tensor {1, 2, 3, 4}
    x[{{1, 3}}] = x[{{2, 4}}]
    holds({2, 3, 4, 4}, x)
    x = nn.tensor {1, 2, 3, 4}
    x[{{2, 4}}]:add_(x[{{1, 3}}])
    holds({1, 3, 5, 7}, x)
    x = nn.tensor {1, 2, 3, 4}
    x:mul_(x[2])
    holds({2, 4, 6, 8}, x)
    x = nn.tensor {{1, 2}, {3, 4}}
    x:add_(x:t())
    holds({{2, 5}, {5, 8}}, x)
    x = nn.tensor {{1, 2, 3}, {4, 5, 6}, {7, 8, 9}}
    x:copy_(x:t())
    holds({{1, 4, 7}, {2, 5, 8}, {3, 6, 9}}, x)
    x = nn.tensor {1, 2, 3, 4, 5}
    x:copy_(x:flip(1))
    holds({5, 4, 3, 2, 1}, x)
    x:add_(x)
    holds({10, 8, 6, 4, 2}, x)
    x = nn.tensor({3, 1, 2}, {dtype = "i64"})
    x:scatter_add_(1, x, x)
    holds({4, 3, 5}, x)
    x:index_add_(1, nn.tensor({2, 3, 1}, {dtype = "i64"}), x)
    holds({9, 7, 8}, x)
    local large = nn.arange(1, 100000):to("f32")
    large[{{2, 100000}}]:copy_(large[{{1, 99999}}])
    assert.is_true(large[{{2, 100000}}]:equal(nn.arange(1, 99999):to("f32")))
  end)

  it("that is expanded holds its elements once and is not written", function()
    local x = nn.tensor {1, 2}
    leaves(x, function() x:expand(3, 2):add_(1) end, "add_", "expanded", "clone")
    leaves(x, function() x:expand(3, 2):fill_(1) end, "expanded")
    leaves(x, function() x:expand(3, 2)[{1, {}}] = nn.ones(3, 2) end)
    holds({2, 3}, x:expand(1, 2):add_(1)[1])
  end)

  it("of a detached tensor shares elements and no history", function()
    local x = leaf {1, 2, 3}
    local y = x * 2
    local d = y:detach()
    assert.is_false(d.requires_grad)
    assert.is_true(d.is_leaf)
    d:fill_(7)
    holds({7, 7, 7}, y)
    assert.is_true(y.requires_grad)
    y:sum():backward() -- x * 2 has saved nothing of its result
    holds({2, 2, 2}, x.grad)
    local nested = nn.detach {h = y, list = {y, 3}}
    assert.is_false(nested.h.requires_grad or nested.list[1].requires_grad)
    assert.equal(3, nested.list[2])
  end)
end)

describe("A transposed copy", function()
  it("has every element in its place, whatever the sizes and the type", function()
    for _, dtype in ipairs {"f32", "i32", "f64", "u8"} do
      for _, rows in ipairs {1, 4, 7, 16, 17, 35, 70} do
        for _, columns in ipairs {1, 3, 8, 16, 33, 64} do
          local x, wanted = nn.arange(1, rows * columns):to(dtype):reshape(rows, columns), {}
          for c = 1, columns do
            wanted[c] = {}
            for r = 1, rows do wanted[c][r] = ((r - 1) * columns + c) % (dtype == "u8" and 256 or math.huge) end
          end
          holds(wanted, x:t():contiguous())
        end
      end
    end
  end)
end)

describe("A copy of rows", function()
  -- Rows of every length around those where the loops change, few and many of them, between rows that must stay.
  it("has every element in its place, whatever their length, the steps and the type", function()
    for _, dtype in ipairs {"u8", "f32", "f64"} do
      for _, rows in ipairs {3, 6, 261} do
        for _, n in ipairs {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 130, 257} do
          local values = {}
          for r = 1, rows do
            values[r] = {}
            for c = 1, n + 2 do values[r][c] = (r * 31 + c * 7) % 251 end
          end
          local x, y = nn.tensor(values, {dtype = dtype}), nn.zeros(rows, n + 2, {dtype = dtype})
          local window = x:narrow(2, 2, n)
          y:narrow(2, 2, n):copy_(window)
          local wanted, turned = {}, {}
          for r = 1, rows do
            wanted[r] = table.move(values[r], 2, n + 1, 1, {})
            for c = 1, n do
              turned[c] = turned[c] or {}
              turned[c][r] = values[r][c + 1]
            end
            values[r][1], values[r][n + 2] = 0, 0
          end
          local written = nn.zeros(n, rows, 2, {dtype = dtype})
          written:select(3, 2):copy_(window:t())
          holds(wanted, window:contiguous())
          holds(values, y)
          holds(turned, written:select(3, 2))
          assert.is_true(written:select(3, 1):eq(0):all():item())
        end
      end
    end
  end)
end)

describe("A change in place of", function()
  it("a view whose base was rewritten after the view was made", function()
    local w, c = leaf {2, 3}, nn.zeros(2)
    c:copy_(w)
    local v = c[1]
    c:copy_(w * -1.5)
    v:mul_(w[1]) -- c[1] is -1.5 w[1]^2 now
    holds({-6, -4.5}, c)
    c:sum():backward()
    holds({-6, -1.5}, w.grad)
  end)

  it("a view becomes part of its base's history", function()
    local x = leaf {1, 2, 3}
    local y = x * 2
    y[1]:mul_(3)
    holds({6, 4, 6}, y)
    y:sum():backward()
    holds({6, 2, 2}, x.grad)
  end)

  it("a base is seen by its views", function()
    local x = leaf {1, 2, 3}
    local y = x * 1
    local v = y[{{1, 2}}]
    y:mul_(3)
    holds({3, 6}, v)
    v:sum():backward()
    holds({3, 3, 0}, x.grad)
  end)

  it("a view is seen by the base's other views", function()
    local x = leaf {1, 2, 3}
    local y = x * 1
    local a, b = y[{{1, 2}}], y[{{2, 3}}]
    a:mul_(5)
    b:mul_(2)
    holds({5, 20, 6}, y);
    (a:sum() + b:sum()):backward()
    holds({5, 20, 2}, x.grad) -- the middle is 10 x, counted in both
  end)

  it("a view of a view goes to the root of both", function()
    local x = leaf {1, 2, 3, 4, 5, 6}
    local y = x * 1
    local grid = y:view(2, 3)
    grid:t()[1]:mul_(2)
    holds({2, 2, 3, 8, 5, 6}, y);
    (y * nn.tensor {1, 2, 3, 4, 5, 6}):sum():backward()
    holds({2, 2, 3, 8, 5, 6}, x.grad)
    x.grad = nil
    y = x * 1
    grid = y:view(2, 3)
    local corner = grid[{{1, 2}, {2, 3}}]
    corner[2]:pow_(2)
    holds({1, 2, 3, 4, 25, 36}, y)
    grid:sum():backward()
    holds({1, 1, 1, 1, 10, 12}, x.grad)
  end)

  it("a tensor without history takes over that of what is written", function()
    local w = leaf {2, 3}
    local room = nn.zeros(4)
    local before = room[{{1, 2}}]
    assert.is_false(before.requires_grad)
    room[{{2, 3}}] = w * w
    assert.is_true(room.requires_grad and before.requires_grad)
    assert.is_false(room.is_leaf)
    holds({0, 4, 9, 0}, room)
    before:sum():backward({retain_graph = true})
    holds({4, 0}, w.grad)
    w.grad = nil
    room:sum():backward()
    holds({4, 6}, w.grad)
  end)

  it("floats by what does not depend on them ends their history", function()
    for _, change in ipairs {
      function(y) y:eq_(2) end, function(y) y:lt_(nn.ones(3)) end, function(y) y:logical_and_(y) end,
      function(y) y:logical_not_() end, function(y) y:zero_() end, function(y) y:bernoulli_() end,
    } do
      local x = leaf {1, 2, 3}
      local y = x * 2
      change(y)
      y:sum():backward()
      holds({0, 0, 0}, x.grad)
    end
    assert.is_false(leaf({1, 2, 3}):eq(2).requires_grad)
  end)

  it("floats by random numbers has torch's names and defaults", function()
    nn.manual_seed(1)
    local x = nn.zeros(1000)
    local share = x:bernoulli_():mean():item()
    assert(share > 0.4 and share < 0.6, "p is 0.5 by default, whatever the values: " .. share)
    holds({1, 1}, nn.full({2}, 7):bernoulli_(1))
    x:uniform_({from = 3, to = 4})
    assert(x:min():item() >= 3 and x:max():item() < 4)
    fails(function() x:uniform_(2, 1) end, "uniform_: from (2) is above to (1)")
  end)

  it("a tensor by one of a wider type has the gradient of the types in between", function()
    for _, op in ipairs {"maximum_", "minimum_", "clamp_"} do
      local x, y = leaf({1, 2, 5}, "f32"), leaf({3, 1, 2}, "f64")
      local z = x * 1
      z[op](z, y)
      local gx, gy = nn.grad((z * nn.tensor {1, 10, 100}):sum(), {x, y})
      local first = op == "minimum_"
      holds(first and {1, 0, 0} or {0, 10, 100}, gx)
      holds(first and {0, 10, 100} or {1, 0, 0}, gy)
    end
    local x = leaf({1, 2, 4}, "f32")
    holds({7, 3, 1}, nn.grad((x * 1):cumprod_(1, {dtype = "f64"}):mul(nn.tensor {1, 1, 0.5}):sum(), {x}))
    local a, b = leaf({{1, 2}}, "f64"), leaf({{3}, {4}}, "f64")
    local ga, gb = nn.grad((nn.ones(1, 1, {requires_grad = true}) * 1):addmm_(a, b):sum(), {a, b})
    holds({{3, 4}}, ga)
    holds({{1}, {2}}, gb)
  end)

  it("a strided tensor by a running sum", function()
    local x = nn.ones(3, 2)
    x:t():cumsum_(2)
    holds({1, 1, 2, 2, 3, 3}, x:reshape(6))
  end)

  it("a part by a value that needs no gradient cuts the history there", function()
    local x = leaf {1, 2, 3}
    local y = x * 2
    y[2] = 7
    y:sum():backward()
    holds({2, 0, 2}, x.grad)
    x.grad = nil
    y = x * 2
    y[nn.tensor {true, false, true}] = 0
    y:sum():backward()
    holds({0, 2, 0}, x.grad)
    x.grad = nil
    y = x * 2
    y:fill_(0)
    y:sum():backward()
    holds({0, 0, 0}, x.grad)
  end)

  it("a tensor by itself is possible where its old value is not needed, and else caught", function()
    local x = leaf {1, 2, 3}
    local y = x * 1
    y:add_(y)
    y:add_(y[2])
    holds({6, 8, 10}, y)
    y:sum():backward()
    holds({2, 8, 2}, x.grad)
    y = x * 1
    y:mul_(y)
    holds({1, 4, 9}, y)
    fails(function() y:sum():backward() end, "mul", "changed in place")
    y = x * 1
    y:mul_(y[2]:clone())
    x.grad = nil
    y:sum():backward()
    holds({2, 8, 2}, x.grad) -- of sum_i x_i x_2: x_2, and for x_2 all of x_1 + 2 x_2 + x_3
  end)

  it("overlapping parts has the gradient of what was read", function()
    local x = leaf {1, 2, 3, 4}
    local y = x * 1
    y[{{2, 4}}]:copy_(y[{{1, 3}}])
    holds({1, 1, 2, 3}, y);
    (y * nn.tensor {1, 10, 100, 1000}):sum():backward()
    holds({11, 100, 1000, 0}, x.grad)
  end)

  it("a part has second derivatives too", function()
    local x = leaf({1, 2, 3}, "f64")
    local y = x * x
    y[{{1, 2}}]:mul_(x[{{2, 3}}])
    local g = nn.grad(y:sum(), {x}, {create_graph = true})
    holds({2 * 1 * 2, 1 + 2 * 2 * 3, 4 + 2 * 3}, g) -- of x1^2 x2 + x2^2 x3 + x3^2
    holds({2 * 2 + 2, 2 + 2 * 3 + 4, 4 + 2}, (nn.grad(g:sum(), {x})))
  end)

  it("a leaf that requires grad, or a view of one, is refused", function()
    local w = leaf {1, 2}
    leaves(w, function() w:add_(1) end, "add_", "leaf", "no_grad")
    leaves(w, function() w[1] = 5 end, "leaf")
    leaves(w, function() w[1]:mul_(5) end, "leaf")
    nn.no_grad(function()
      w:add_(1)
      w[2] = 7
    end)
    holds({2, 7}, w)
    assert.is_true(w.is_leaf and w.requires_grad)
    w:detach():fill_(0)
    holds({0, 0}, w)
  end)

  it("a view that was made inside no_grad is refused outside, since its base would not know", function()
    local x = leaf {1, 2, 3}
    local y = x * 1
    local v = nn.no_grad(function() return y[1] end)
    assert.is_false(v.requires_grad)
    leaves(y, function() v:mul_(2) end, "mul_", "no_grad")
    nn.no_grad(function() v:mul_(2) end)
    holds({2, 2, 3}, y)
  end)

  it("a view of a detached tensor that is not contiguous is refused with the reason", function()
    local w, d = leaf {1, 2}, nn.ones(2, 2):t():detach()
    leaves(d, function() d[1]:mul_(w) end, "contiguous", "clone")
    d[1]:mul_(3)
    holds({{3, 3}, {1, 1}}, d)
  end)

  it("something of another shape or type changes nothing", function()
    local x = nn.ones(2)
    leaves(x, function() x:add_(nn.ones(3, 2)) end, "add_", "3x2", "(2)")
    leaves(x, function() x:add_(nn.ones(3)) end, "add_")
    leaves(x, function() x:copy_(nn.ones(3)) end, "copy_")
    leaves(x, function() x[{{1, 2}}] = nn.ones(3) end)
    leaves(x, function() x[3] = 1 end, "3")
    local i = nn.ones(2, {dtype = "i64"})
    leaves(i, function() i:add_(nn.ones(2)) end, "i64")
  end)

  it("many times over is a history of that length", function()
    local x = leaf {1, 1}
    local y = x * 1
    for _ = 1, 2000 do y[1]:mul_(1.001) end
    y:sum():backward()
    local g = x.grad:totable()
    assert.is_true(math.abs(g[1] / 1.001 ^ 2000 - 1) < 1e-3)
    assert.equal(1, g[2])
  end)
end)

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
    assert.is_truthy(message:find("tensor_spec.lua:" .. line, 1, true), message)
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
    assert.is_truthy(message:find("tensor_spec.lua:" .. line .. ": log: the result contains", 1, true), message)
  end)

  it("names the op whose gradient it is, and where that was recorded", function()
    local x = leaf {0, 1}
    local line = debug.getinfo(1, "l").currentline + 2
    local message = message_of(function()
      local y = x:sqrt()
      y:sum():backward()
    end)
    assert.is_truthy(message:find("backward of sqrt %(recorded at [^:]*tensor_spec.lua:" .. line .. "%)"), message)
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
    assert.is_truthy(message:find("^[^:]*tensor_spec.lua:" .. line .. ": here$"), message)
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
    assert.is_truthy(message:find("tensor_spec.lua:" .. line .. ": matmul: ", 1, true), message)
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
