-- Views, and tensors changed in place.
local helpers = require "spec.helpers"
local nn = helpers.nn
local fails, leaves = helpers.says, helpers.leaves
local leaf, holds = helpers.leaf, helpers.holds

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
