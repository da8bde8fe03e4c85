-- Layers of transformers: what golden data do not tell of normalisation and attention.
local helpers = require "spec.helpers"
local nn, says = helpers.nn, helpers.says

local function names(net)
  local list = {}
  for name in net:named_parameters() do list[#list + 1] = name end
  return list
end

local function near(a, b, bound) return (a - b):abs():max():item() <= bound end

local attend = nn.F.scaled_dot_product_attention

describe("normalisation of each sample", function()
  it("gives rows of mean 0 and variance 1, however far from 0 they lie", function()
    nn.manual_seed(1)
    local x = nn.randn(5, 3000) * 3 + 1000
    local y = nn.F.layer_norm(x, {3000}):to "f64"
    assert.is_true(y:mean(2):abs():max():item() < 1e-6)
    assert.is_true((y:var(2, {correction = 0}) - 1):abs():max():item() < 1e-4)
  end)

  it("adds up the gradients of many rows exactly", function()
    local rows = 100000
    local w, b = nn.ones(2, {requires_grad = true}), nn.zeros(2, {requires_grad = true})
    local x = nn.tensor {{-1, 1}}:expand(rows, 2)
    nn.F.layer_norm(x, {2}, w, b, 0):sum():backward()
    assert.same({rows, rows}, b.grad:totable()) -- counted in f32 alone they would round
    assert.same({-rows, rows}, w.grad:totable())
  end)

  it("starts its modules with weight 1 and bias 0", function()
    local net = nn.LayerNorm {2, 3}
    assert.same({"weight", "bias"}, names(net))
    assert.is_true(net.weight:equal(nn.ones(2, 3)) and net.bias:equal(nn.zeros(2, 3)))
    assert.same({"weight"}, names(nn.LayerNorm(3, {bias = false})))
    assert.same({}, names(nn.LayerNorm(3, {elementwise_affine = false})))
    assert.same({"weight"}, names(nn.RMSNorm(3)))
    assert.same({"weight", "bias"}, names(nn.GroupNorm(2, 4)))
    assert.same({}, names(nn.GroupNorm(2, 4, {affine = false})))
    assert.equal("LayerNorm({2, 3}, eps=1e-05, elementwise_affine=true, bias=true)", tostring(net))
    assert.equal("RMSNorm({3}, eps=nil, elementwise_affine=true)", tostring(nn.RMSNorm(3)))
    assert.equal("GroupNorm(2, 4, eps=1e-05, affine=true)", tostring(nn.GroupNorm(2, 4)))
  end)

  it("says what does not fit", function()
    says(function() nn.F.layer_norm(nn.ones(2, 3), {4}) end,
      "layer_norm: normalized_shape is 4, but input (2x3) ends with 3")
    says(function() nn.F.layer_norm(nn.ones(3), {2, 3}) end, "normalized_shape is 2x3, but input (3) ends with 3")
    says(function() nn.F.rms_norm(nn.ones(2, 3), {3}, nn.ones(2)) end, "weight (2) does not fit input (2x3)", "shape 3")
    says(function() nn.F.group_norm(nn.ones(2, 3), 2) end,
      "group_norm: num_groups is 2, which does not divide the 3 channels")
    says(function() nn.F.group_norm(nn.ones(2), 1) end, "group_norm: input (2) must be N x C x ...")
    says(function() nn.LayerNorm "x" end,
      'LayerNorm: normalized_shape must be a size or a list of sizes, got the string "x"')
    says(function() nn.LayerNorm {2, -1} end, "normalized_shape must be a size or a list of sizes")
    says(function() nn.GroupNorm(4, 6) end, "GroupNorm: num_channels is 6, which num_groups (4) does not divide")
  end)
end)

describe("attention", function()
  it("keeps no matrix of scores", function()
    nn.manual_seed(2)
    local function input() return nn.randn(1, 2, 2048, 32, {requires_grad = true}) end
    local q, k, v = input(), input(), input()
    nn.memory "trim"
    nn.memory "reset"
    local before = nn.memory().live
    attend(q, k, v, {is_causal = true}):sum():backward()
    -- results and gradients take 4 x 0.5 MB, a matrix of scores alone 33.5 MB
    assert.is_true(nn.memory().peak - before < 16e6, ("%.1f MB"):format((nn.memory().peak - before) / 1e6))
  end)

  it("reads queries, keys and values where a packed projection left them", function()
    nn.manual_seed(3)
    local packed = nn.randn(2, 70, 3 * 4 * 8)
    local function heads(x) return x:unflatten(-1, {4, 8}):transpose(2, 3) end
    local q, k, v = packed:split(32, -1)
    local wanted = attend(heads(q):contiguous(), heads(k):contiguous(), heads(v):contiguous(), {is_causal = true})
    assert.is_true(attend(heads(q), heads(k), heads(v), {is_causal = true}):equal(wanted))
  end)

  -- Result and gradients of attention must be those of dense operands, bit for bit; order says for each of them as what
  -- permutation it is contiguous, where that is another one.
  local function assert_laid(order, options, q, k, v)
    local inputs, wanted, laid = {q, k, v}, {}, {}
    nn.manual_seed(8)
    local ends = nn.randn(attend(q, k, v, options).shape):to(q.dtype)
    for _, dense in ipairs {true, false} do
      local leaves, seen = {}, dense and wanted or laid
      for i, x in ipairs(inputs) do
        leaves[i] = (dense and x:contiguous() or x):detach():requires_grad_()
        local watched = leaves[i]:narrow(1, 1, x:size(1)) -- what a leaf keeps is made dense
        watched:register_hook(function(gradient) seen[i + 1] = gradient end)
        leaves[i] = watched
      end
      nn.manual_seed(9)
      seen[1] = attend(leaves[1], leaves[2], leaves[3], options)
      seen[1]:backward(ends)
    end
    for i, x in ipairs(laid) do
      assert.is_true(x:equal(wanted[i]) and wanted[i]:is_contiguous(), ("result %d"):format(i))
      local dims = order[i]
      assert.is_true((dims and x:permute(dims) or x):is_contiguous(), ("result %d lies otherwise"):format(i))
    end
  end

  local inside = {1, 3, 2, 4} -- heads inside positions

  it("lays results and gradients out in memory as queries, keys and values lie", function()
    local function packed(batch, positions, heads, width, dtype)
      local x = nn.randn(batch, positions, 3 * heads * width):to(dtype or "f32")
      local list = {}
      for i, part in ipairs {x:split(heads * width, -1)} do
        list[i] = part:unflatten(-1, {heads, width}):transpose(2, 3)
      end
      return table.unpack(list)
    end
    for _, dtype in ipairs {"f32", "f64"} do
      for _, causal in ipairs {false, true} do
        assert_laid({inside, inside, inside, inside}, {is_causal = causal}, packed(2, 300, 3, 8, dtype))
      end
    end
    assert_laid({inside, inside, inside, inside}, {dropout_p = 0.3}, packed(2, 70, 3, 16))
    local mask = nn.ones(70, 70):tril(3):gt(0)
    assert_laid({inside, inside, inside, inside}, {attn_mask = mask}, packed(2, 70, 3, 16))
    for _, shape in ipairs {{2, 1, 3, 8}, {2, 5, 1, 8}, {1, 5, 3, 1}, {1, 5, 3, 8}, {0, 5, 3, 8}, {2, 0, 3, 8}} do
      assert_laid({inside, inside, inside, inside}, {}, packed(table.unpack(shape)))
    end
  end)

  it("lays each one out in its own order", function()
    local q = nn.randn(2, 20, 4, 8):transpose(2, 3)
    local k, v = nn.randn(2, 4, 30, 8), nn.randn(30, 2, 4, 6):permute(2, 3, 1, 4)
    assert_laid({inside, inside, nil, {3, 1, 2, 4}}, {}, q, k, v)
    assert_laid({nil, nil, inside, {3, 1, 2, 4}}, {}, q:contiguous(), k:transpose(2, 3):contiguous():transpose(2, 3), v)
    local shared = nn.randn(2, 30, 2, 8):transpose(2, 3) -- two heads serve four
    assert_laid({inside, inside, inside, inside}, {enable_gqa = true}, q, shared, shared)
    -- gradients of what was shared among the batch are sums, and dense
    assert_laid({inside, nil, nil, {3, 1, 2, 4}}, {}, q:narrow(1, 1, 1), nn.randn(1, 30, 4, 8):transpose(2, 3), v)
    local columns = nn.randn(2, 4, 8, 20):transpose(3, 4) -- whose rows are not adjacent: results are dense
    assert_laid({}, {}, columns, k, k)
    local one = nn.randn(20, 4, 8):transpose(1, 2) -- without a batch
    assert_laid({{2, 1, 3}, {2, 1, 3}, {2, 1, 3}, {2, 1, 3}}, {is_causal = true}, one, one, one)
  end)

  it("of a causal mask and is_causal is the same", function()
    nn.manual_seed(4)
    local q, k, v = nn.randn(3, 200, 16), nn.randn(3, 200, 16), nn.randn(3, 200, 16)
    local mask = nn.ones(200, 200):tril():gt(0)
    assert.is_true(near(attend(q, k, v, {is_causal = true}), attend(q, k, v, mask), 1e-6))
  end)

  it("gives 0 and no gradient to a query that sees nothing", function()
    local q, k, v = nn.ones(1, 2, 3, {requires_grad = true}), nn.ones(1, 4, 3), nn.ones(1, 4, 3)
    local out = attend(q, k, v, nn.tensor {{false}, {true}})
    assert.same({{{0, 0, 0}, {1, 1, 1}}}, out:totable())
    out:sum():backward()
    assert.is_true(q.grad:equal(nn.zeros(1, 2, 3)))
  end)

  it("drops weights as often as it is told, and those left weigh more", function()
    nn.manual_seed(5)
    local q, k = nn.zeros(1, 50, 4), nn.zeros(1, 400, 4) -- every weight is 1 / 400
    local weights = attend(q, k, nn.eye(400):unsqueeze(1), {dropout_p = 0.25})
    local kept = weights:gt(0):to "f32"
    assert.is_true(math.abs(kept:mean():item() - 0.75) < 0.01)
    assert.is_true(near(weights, kept / 300, 1e-8))
    assert.is_true(attend(q, k, nn.ones(1, 400, 2), {dropout_p = 1}):equal(nn.zeros(1, 50, 2)))
  end)

  it("drops the same weights on the way back, though other numbers were drawn between", function()
    nn.manual_seed(6)
    local q, k, v = nn.zeros(1, 3, 4), nn.zeros(1, 300, 4), nn.eye(300):unsqueeze(1)
    v.requires_grad = true
    local out = attend(q, k, v, {dropout_p = 0.5})
    nn.manual_seed(77)
    nn.rand(100)
    out:sum():backward()
    -- d sum(W V) / dV_j is the sum of the weights of key j in every column
    assert.is_true(near(v.grad, out:detach():sum(2):squeeze(1):unsqueeze(2):expand(300, 300):unsqueeze(1), 1e-7))
  end)

  it("says what does not fit", function()
    local x = nn.ones(2, 3, 4)
    says(function() attend(x, nn.ones(2, 3, 5), x) end, "query (2x3x4) has 4 features, but key (2x3x5) has 5")
    says(function() attend(x, x, nn.ones(2, 5, 4)) end, "key (2x3x4) has 3 positions, but value (2x5x4) has 5")
    says(function() attend(nn.ones(3), x, x) end, "query (3) must be ... x positions x features")
    says(function() attend(x, x:to "f64", x) end, "query is f32, but key is f64")
    says(function() attend(x, nn.ones(3, 3, 4), nn.ones(3, 3, 4)) end, "do not broadcast")
    says(function() attend(x, x, x, nn.ones(2, 2)) end, "attn_mask (2x2) does not broadcast to the scores (2x3x3)")
    says(function() attend(x, x, x, nn.ones(3, 3):to "i64") end, "attn_mask must be bool or f32", "it is i64")
    says(function() attend(x, x, x, nn.ones(3, 3), 0, true) end, "attn_mask is given, so that is_causal cannot be true")
    says(function() attend(x, x, x, {dropout_p = 1.5}) end, "dropout_p is 1.5, but it must lie in [0, 1]")
    local three, two = nn.ones(1, 3, 2, 4), nn.ones(1, 2, 2, 4)
    says(function() attend(three, two, two, {enable_gqa = true}) end, "query (1x3x2x4) has 3 heads, which the 2 of key")
  end)
end)

describe("MultiheadAttention", function()
  local quick = {need_weights = false}

  it("has torch's parameters", function()
    assert.same({"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"},
      names(nn.MultiheadAttention(8, 2)))
    assert.same({"in_proj_weight", "out_proj.weight"}, names(nn.MultiheadAttention(8, 2, {bias = false})))
    assert.same({"q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias", "bias_k", "bias_v",
      "out_proj.weight", "out_proj.bias"}, names(nn.MultiheadAttention(8, 2, {kdim = 3, vdim = 4, add_bias_kv = true})))
    nn.manual_seed(1)
    local net = nn.MultiheadAttention(64, 4)
    assert.is_true(net.in_proj_weight:abs():max():item() <= math.sqrt(6 / (64 + 3 * 64)))
    assert.equal(0, net.in_proj_bias:abs():sum():item() + net.out_proj.bias:abs():sum():item())
  end)

  it("gives the same with and without weights, and weights that add up to 1", function()
    nn.manual_seed(2)
    local net, x = nn.MultiheadAttention(8, 2, {batch_first = true}), nn.randn(3, 5, 8)
    local out, weights = net(x, x, x)
    assert.equal("3x5x5", tostring(weights.shape))
    assert.is_true(near(weights:sum(-1), nn.ones(3, 5), 1e-6))
    local fast, nothing = net(x, x, x, quick)
    assert.is_nil(nothing)
    assert.is_true(near(out, fast, 1e-6))
    local _, each = net(x, x, x, {average_attn_weights = false})
    assert.equal("3x2x5x5", tostring(each.shape))
    assert.is_true(near(each:mean(2), weights, 1e-6))
  end)

  it("projects shared inputs at once to the same results", function()
    nn.manual_seed(3)
    local net, x, y = nn.MultiheadAttention(8, 2), nn.randn(5, 3, 8), nn.randn(4, 3, 8)
    assert.is_true(near(net(x, x, x, quick), net(x, x:clone(), x:clone(), quick), 1e-6))
    assert.is_true(near(net(x, y, y, quick), net(x, y, y:clone(), quick), 1e-6))
  end)

  it("puts the batch where it is told", function()
    nn.manual_seed(4)
    local net, x = nn.MultiheadAttention(8, 2), nn.randn(5, 3, 8)
    local out = net(x, x, x, quick)
    assert.is_true(near(net(x:select(2, 1), x:select(2, 1), x:select(2, 1), quick), out:select(2, 1), 1e-6))
    net.batch_first = true
    x = x:transpose(1, 2)
    assert.is_true(near(net(x, x, x, quick), out:transpose(1, 2), 1e-6))
  end)

  it("drops weights in training only", function()
    nn.manual_seed(5)
    local net, x = nn.MultiheadAttention(8, 2, {dropout = 0.5}), nn.randn(6, 1, 8)
    local _, weights = net(x, x, x, {average_attn_weights = false})
    assert.is_true(weights:eq(0):any():item())
    assert.is_false(near(net(x, x, x, quick), net(x, x, x, quick), 1e-3))
    net:eval()
    _, weights = net(x, x, x, {average_attn_weights = false})
    assert.is_false(weights:eq(0):any():item())
    assert.is_true(net(x, x, x, quick):equal(net(x, x, x, quick)))
  end)

  it("says what does not fit", function()
    says(function() nn.MultiheadAttention(7, 2) end,
      "MultiheadAttention: embed_dim is 7, which num_heads (2) does not divide")
    says(function() nn.MultiheadAttention(8, 2, {dropout = 2}) end,
      "MultiheadAttention: dropout must be in 0 .. 1, got 2")
    local net, x = nn.MultiheadAttention(8, 2), nn.ones(5, 3, 8)
    says(function() net(x, x) end, "MultiheadAttention: forward: value is missing")
    says(function() net(x, x, nn.ones(5, 3, 4)) end, "value (5x3x4) must have 8 features")
    says(function() net(x, nn.ones(5, 2, 8), nn.ones(5, 2, 8)) end, "they differ in the batch")
    says(function() net(x, x, nn.ones(4, 3, 8)) end, "key is 5x3x8, but value is 4x3x8")
    says(function() net(x, x, x, {is_causal = true}) end, "is_causal is a hint on attn_mask, which is missing")
    says(function() net(x, x, x, {attn_mask = nn.ones(5, 4)}) end, "attn_mask must be 5x5 or 6x5x5, got 5x4")
    says(function() net(x, x, x, {key_padding_mask = nn.ones(5, 3)}) end, "key_padding_mask must be 3x5, got 5x3")
  end)
end)
