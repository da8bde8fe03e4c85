-- Results and gradients keep their bits however operands lie in memory, at sizes where the kernels take different ways.
-- Sums over dimensions and the statistics of batch normalisation are not among these: runtime/README.md says why.
local helpers = require "spec.helpers"
local samples = require "spec.samples"
local nn = helpers.nn
local F = nn.F

local layouts = {
  transposed = function(x) return helpers.layout(x, "t") end,
  ["channels last"] = function(x) return helpers.layout(x, "c") end,
  ["cut from wider rows"] = function(x) return nn.cat({x, x}, -1):narrow(-1, 1, x:size(-1)):detach() end,
  stepped = function(x) return nn.stack({x, x}, -1):select(-1, 1):detach() end,
}

-- Results and gradients of f, with operand `which` (0: all) laid out by lay.
local function compute(f, operands, lay, which)
  local arguments = {tensors = {}}
  for i, x in ipairs(operands) do
    if lay and (which == 0 or which == i) then x = lay(x) end
    if helpers.is_float(x) then
      x = x:detach()
      x.requires_grad = true
    end
    arguments[i], arguments.tensors[i] = x, {x = x}
  end
  local values = samples.call({traits = {}}, f, {n = #operands, table.unpack(arguments)})
  for _, gradient in ipairs(samples.gradients(values, arguments)) do values[#values + 1] = gradient end
  return values
end

local function assert_same_bits(f, operands)
  local wanted = compute(f, operands)
  for name, lay in pairs(layouts) do
    for which = 0, #operands > 1 and #operands or 0 do
      for i, x in ipairs(compute(f, operands, lay, which)) do
        helpers.assert_same(("operand %d %s, result %d"):format(which, name, i), x, wanted[i])
      end
    end
  end
end

local function draw(dtype, ...)
  local operands = {}
  for i, shape in ipairs {...} do
    operands[i] = nn.is_tensor(shape) and shape or
      samples.draw({shape = shape, lo = -2, hi = 2, avoid = {}, ints = shape.ints}, dtype, i)
  end
  return operands
end

for _, dtype in ipairs {"f32", "f64"} do
  describe("whatever the layout, in " .. dtype .. ",", function()
    for _, rows in ipairs {1, 2, 4, 7, 12, 13} do
      it(("products of %d rows keep their bits"):format(rows), function()
        for _, depth in ipairs {5, 17, 40, 300} do
          for _, columns in ipairs {1, 3, 21} do
            assert_same_bits(nn.matmul, draw(dtype, {rows, depth}, {depth, columns}))
          end
        end
        assert_same_bits(F.linear, draw(dtype, {rows, 530}, {33, 530}, {33}))
        assert_same_bits(nn.bmm, draw(dtype, {3, rows, 70}, {3, 70, 20}))
        assert_same_bits(nn.addmm, draw(dtype, {rows, 20}, {rows, 70}, {70, 20}))
      end)
    end

    it("products of vectors and of stacks keep their bits", function()
      for _, depth in ipairs {9, 100, 700} do
        assert_same_bits(nn.dot, draw(dtype, {depth}, {depth}))
        assert_same_bits(nn.mv, draw(dtype, {20, depth}, {depth}))
        assert_same_bits(nn.matmul, draw(dtype, {depth}, {depth, 20}))
        assert_same_bits(nn.matmul, draw(dtype, {2, 3, 5, depth}, {depth, 9}))
        assert_same_bits(nn.matmul, draw(dtype, {2, 3, 5, depth}, {3, depth, 9}))
      end
      local function scores(q, k) return nn.einsum("bhqd,bhkd->bhqk", q, k) end
      assert_same_bits(scores, draw(dtype, {2, 3, 7, 40}, {2, 3, 9, 40}))
    end)

    it("means over windows keep their bits", function()
      local strided = {stride = 2, padding = 1}
      for _, options in ipairs {{2}, {3, strided}, {3, {stride = 1}}, {{1, 4}}, {18, {padding = 9}}} do
        local function pool(x) return F.avg_pool2d(x, options[1], options[2]) end
        assert_same_bits(pool, draw(dtype, {2, 3, 19, 18}))
        assert_same_bits(pool, draw(dtype, {2, 17, 9, 10}))
      end
      for _, size in ipairs {1, 2, 5} do
        assert_same_bits(function(x) return F.adaptive_avg_pool1d(x, size) end, draw(dtype, {3, 7, 40}))
        assert_same_bits(function(x) return F.adaptive_avg_pool2d(x, size) end, draw(dtype, {2, 18, 21, 23}))
        assert_same_bits(function(x) return F.adaptive_avg_pool3d(x, size) end, draw(dtype, {2, 5, 5, 6, 7}))
      end
      assert_same_bits(function(x) return F.avg_pool3d(x, 3, strided) end, draw(dtype, {2, 5, 6, 7, 8}))
    end)

    it("convolutions keep their bits", function()
      for _, options in ipairs {{}, {stride = 2, padding = 1}} do
        local function with(conv) return function(x, w, bias) return conv(x, w, bias, options) end end
        assert_same_bits(with(F.conv1d), draw(dtype, {3, 5, 40}, {9, 5, 3}, {9}))
        assert_same_bits(with(F.conv2d), draw(dtype, {2, 3, 13, 14}, {6, 3, 3, 3}, {6}))
        assert_same_bits(with(F.conv2d), draw(dtype, {2, 20, 7, 9}, {33, 20, 1, 1}, {33}))
        assert_same_bits(with(F.conv3d), draw(dtype, {2, 3, 5, 6, 7}, {5, 3, 3, 3, 3}, {5}))
      end
    end)

    it("what runs along a dimension keeps its bits", function()
      for _, shape in ipairs {{7, 130}, {4, 9, 20}} do
        for dim = 1, #shape do
          for _, f in ipairs {nn.softmax, nn.log_softmax, nn.cumsum, nn.cumprod} do
            assert_same_bits(function(x) return f(x, dim) end, draw(dtype, shape))
          end
        end
        local width = shape[#shape]
        local function normalise(x, w, b) return F.layer_norm(x, {width}, w, b) end
        assert_same_bits(normalise, draw(dtype, shape, {width}, {width}))
        assert_same_bits(function(x, w) return F.rms_norm(x, {width}, w) end, draw(dtype, shape, {width}))
      end
      assert_same_bits(F.cross_entropy, draw(dtype, {70, 31}, {70, ints = 31}))
    end)

    it("recurrent layers and attention keep their bits", function()
      for kind, gates in pairs {rnn = 1, gru = 3, lstm = 4} do
        for _, batch in ipairs {1, 7} do
          local layer, wide = helpers.op(kind .. "_layer"), gates * 65
          assert_same_bits(layer, draw(dtype, {3, batch, 17}, {wide, 17}, {wide, 65}, {wide}, {wide}))
        end
      end
      local attend = F.scaled_dot_product_attention
      assert_same_bits(attend, draw(dtype, {2, 3, 20, 16}, {2, 3, 40, 16}, {2, 3, 40, 24}))
    end)
  end)
end

describe("elementwise loops over rows that are put together or turned", function()
  -- Rows of n elements, m of them in each of 3: shorter and longer than what a block takes.
  local function operands(dtype, m, n)
    local function normal(...) return nn.randn(...):to(dtype) end
    return {
      turned = normal(3, n, m):transpose(2, 3), ["all turned"] = normal(n, m, 3):permute(3, 2, 1),
      row = normal(n), column = normal(m, 1), ["one for each matrix"] = normal(3, 1, 1), ["one element"] = normal(1),
      cut = normal(3, m, n + 3):narrow(3, 2, n), stepped = normal(3, m, n, 2):select(4, 1), dense = normal(3, m, n),
    }
  end

  for _, dtype in ipairs {"f32", "f64", "i32"} do
    it("gives what dense operands give in " .. dtype, function()
      nn.manual_seed(11)
      for _, m in ipairs {1, 2, 17, 40} do
        for _, n in ipairs {1, 3, 16, 31, 32, 33, 70} do
          local a, kinds = nn.randn(3, m, n):mul(9):to(dtype), operands(dtype, m, n)
          for name, b in pairs(kinds) do
            local full = b:expand(3, m, n):clone()
            local what = ("%s, %d rows of %d"):format(name, m, n)
            helpers.assert_same(what .. ", sum", a + b, a + full)
            helpers.assert_same(what .. ", difference", b - a, full - a)
            local chosen = nn.where(full:gt(0), a, full)
            helpers.assert_same(what .. ", choice", nn.where(b:gt(0), a, b), chosen)
          end
        end
      end
    end)
  end
end)
