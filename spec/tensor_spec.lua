-- Tensors as Lua values: fields, operators, text, freeing, sizes beyond reason, types and their promotion.
local helpers = require "spec.helpers"
local nn = helpers.nn
local fails, leaves = helpers.says, helpers.leaves
local leaf, holds = helpers.leaf, helpers.holds

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
    local sizes = {}
    for i = 1, 257 do sizes[i] = 3 end
    fails(function() nn.zeros(table.unpack(sizes)) end, "zeros: 257 sizes given, but at most 8 are possible")
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
