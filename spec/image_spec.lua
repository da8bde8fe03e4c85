-- Pooling, batch and instance normalisation: how images lie in memory, running statistics, errors.
local helpers = require "spec.helpers"
local native = require "nnlua.native"
local nn, says = helpers.nn, helpers.says

-- The same values with adjacent channels: what convolution makes.
local function channels_last(x)
  local there, back = {1}, {1, x:dim()}
  for d = 3, x:dim() do there[d - 1], back[d] = d, d - 1 end
  there[x:dim()] = 2
  return x:permute(there):contiguous():permute(back):detach()
end

local function lies_channels_last(x)
  local strides = x:stride()
  return strides[2] == 1 and strides[x:dim()] == x:size(2)
end

-- Name, call, and whether sums may be rounded differently.
local calls = {
  {"max_pool2d", function(x) return nn.F.max_pool2d(x, 2) end},
  {"max_pool2d with padding", function(x) return nn.F.max_pool2d(x, 3, 2, 1) end},
  {"max_pool2d with gaps", function(x) return nn.F.max_pool2d(x, 2, {stride = 3}) end},
  {"adaptive_max_pool2d", function(x) return nn.F.adaptive_max_pool2d(x, {3, 4}) end},
  {"avg_pool2d", function(x) return nn.F.avg_pool2d(x, 2) end, true},
  {"avg_pool2d with padding", function(x) return nn.F.avg_pool2d(x, 3, 2, 1) end, true},
  {"adaptive_avg_pool2d", function(x) return nn.F.adaptive_avg_pool2d(x, {3, 4}) end, true},
  {"batch_norm", function(x) return nn.F.batch_norm(x, nil, nil, {training = true}) end, true},
}

describe("images that lie channels-last", function()
  for _, call in ipairs(calls) do
    local name, f, rounds = table.unpack(call)
    it("keep lying so, and their gradients, in " .. name, function()
      for _, channels in ipairs {2, 3, 6, 9, 16, 33, 70} do
        for i, dtype in ipairs {"f32", "f64", "f32"} do
          nn.manual_seed(channels)
          local height, width = table.unpack(i < 3 and {8, 12} or {7, 21})
          local x = nn.randn(2, channels, height, width, {dtype = dtype})
          local y = channels_last(x)
          x.requires_grad, y.requires_grad = true, true
          local a, b = f(x), f(y)
          assert.is_true(a:is_contiguous() and lies_channels_last(b))
          local r = nn.randn(a.shape, {dtype = dtype})
          local ga = nn.grad((a * r):sum(), {x})
          local gb = nn.grad((b * channels_last(r)):sum(), {y})
          local within = {c = rounds and 8 or 0, scale = 4}
          helpers.assert_close(channels .. " channels", b:detach(), a:detach(), within)
          helpers.assert_close(channels .. " channels, gradient", gb, ga, within)
        end
      end
    end)
  end
end)

describe("batch normalisation", function()
  it("moves its running statistics on, by the unbiased variance", function()
    local layer = nn.BatchNorm1d(1, {momentum = 0.25})
    layer(nn.tensor({{1}, {2}, {6}})) -- mean 3, variance 7
    assert.equal(0.75, layer.running_mean:item())
    assert.equal(0.75 + 0.25 * 7, layer.running_var:item())
    assert.equal(1, layer.num_batches_tracked:item())
    layer:eval()
    layer(nn.tensor({{5}, {7}}))
    assert.equal(0.75, layer.running_mean:item())
    assert.equal(1, layer.num_batches_tracked:item())
    layer:reset_running_stats()
    assert.same({0, 1, 0}, {layer.running_mean:item(), layer.running_var:item(), layer.num_batches_tracked:item()})
  end)

  it("averages over all batches without a momentum", function()
    local layer = nn.BatchNorm1d(1, {momentum = false})
    layer(nn.tensor({{1}, {3}})) -- mean 2, variance 2
    layer(nn.tensor({{2}, {10}})) -- mean 6, variance 32
    assert.equal(4, layer.running_mean:item())
    assert.equal(17, layer.running_var:item())
    assert.equal(2, layer.num_batches_tracked:item())
  end)

  it("holds its state by torch's names", function()
    local names = {}
    for name in pairs(nn.BatchNorm2d(4):state_dict()) do names[#names + 1] = name end
    table.sort(names)
    assert.same({"bias", "num_batches_tracked", "running_mean", "running_var", "weight"}, names)
    assert.equal("i64", nn.BatchNorm2d(4).num_batches_tracked.dtype)
    local bare = nn.BatchNorm2d(4, {affine = false, track_running_stats = false})
    assert.is_nil(next(bare:state_dict()))
    assert.equal("BatchNorm2d(4, eps=1e-05, momentum=0.1, affine=false, track_running_stats=false)", tostring(bare))
  end)

  it("is not disturbed by large means", function()
    nn.manual_seed(1)
    for _, shape in ipairs {{4000, 3}, {8, 3, 20, 20}, {50, 40, 9, 9}} do
      for _, lay in ipairs {function(x) return x end, #shape > 2 and channels_last or nil} do
        local x = lay(nn.randn(shape) + 10000) -- f32 has 1/1024 there
        local function normal(v) return nn.F.batch_norm(v, nil, nil, {training = true}) end
        helpers.assert_close(helpers.shape_text(shape), normal(x), normal(x:to("f64")):to("f32"), {c = 16, scale = 4})
      end
    end
  end)

  it("leaves running statistics alone when a call fails", function()
    local mean, var = nn.zeros(3), nn.ones(3)
    says(function() nn.F.batch_norm(nn.randn(4, 3), mean, var, nn.ones(2), {training = true}) end,
      "batch_norm: weight (2) must hold a value for each of the 3 channels of input (4x3)")
    assert.same({0, 0, 0}, mean:totable())
    assert.equal(0, mean:version())
  end)

  it("takes an empty batch, from which nothing is learned", function()
    local layer = nn.BatchNorm2d(3)
    local x = nn.zeros(0, 3, 2, 2, {requires_grad = true})
    layer(x):sum():backward()
    assert.same({0, 0, 0}, layer.weight.grad:totable())
    assert.same({0, 0, 0}, layer.running_mean:totable())
  end)

  it("says what is wrong with its input", function()
    says(function() nn.BatchNorm2d(3)(nn.zeros(2, 3)) end,
      "BatchNorm2d: input (2x3) must have 4 dimensions, batch x channels x height x width")
    says(function() nn.BatchNorm1d(3)(nn.zeros(1, 3)) end,
      "input (1x3) has 1 value per channel, but training wants more than 1")
    says(function() nn.F.batch_norm(nn.zeros(2, 3)) end,
      "running_mean and running_var are needed unless training is true")
    says(function() nn.F.batch_norm(nn.zeros(3), {training = true}) end, "input (3) must have 2 or more dimensions")
    says(function() nn.BatchNorm1d(3)(nn.zeros(2, 3, {dtype = "f64"})) end, "running_mean is f32, but input is f64")
  end)

  -- What captured programs make of a batch normalisation and the relu behind it.
  it("can take the positive part in passing", function()
    nn.manual_seed(2)
    for _, lay in ipairs {function(x) return x end, channels_last} do
      for _, name in ipairs {"batch_norm_train", "batch_norm_eval"} do
        local x, w, b = lay(nn.randn(3, 5, 4, 6)), nn.randn(5), nn.randn(5)
        local r = lay(nn.randn(3, 5, 4, 6))
        local statistics = name == "batch_norm_eval" and {nn.randn(5), nn.rand(5) + 0.5} or {}
        local function run(relu)
          local leaves = {x:detach(), w:detach(), b:detach()}
          for _, leaf in ipairs(leaves) do leaf.requires_grad = true end
          local arguments = {table.unpack(leaves)}
          for _, t in ipairs(statistics) do arguments[#arguments + 1] = t end
          arguments[#arguments + 1] = 0.1
          arguments[#arguments + 1] = relu
          local y = native.op(name)(table.unpack(arguments))
          if not relu then y = nn.F.relu(y) end
          return y:detach(), nn.grad((y * r):sum(), leaves)
        end
        local one, two = {run(true)}, {run(false)}
        for i = 1, 4 do helpers.assert_same(name .. ", result " .. i, one[i], two[i]) end
      end
    end
  end)
end)

describe("max pooling", function()
  it("counts positions from 1 within a channel", function()
    local x = nn.tensor({{{1, 9, 2}, {3, 4, 8}, {7, 5, 6}}})
    local values, places = nn.F.max_pool2d(x, 2, {stride = 1, return_indices = true})
    assert.same({{{9, 9}, {7, 8}}}, values:totable())
    assert.same({{{2, 2}, {7, 6}}}, places:totable())
    values, places = nn.MaxPool2d(2, {stride = 1, return_indices = true})(x)
    assert.equal(4, values:numel())
    assert.equal("i64", places.dtype)
  end)

  it("gives the same values whether positions are asked for or not", function()
    nn.manual_seed(3)
    for _, channels in ipairs {1, 6, 16, 35} do
      for _, options in ipairs {{}, {stride = 1}, {padding = 1}, {dilation = 2}, {ceil_mode = true, stride = 3}} do
        for _, size in ipairs {2, 3, {3, 2}} do
          local x = nn.randn(2, 9, 8, channels)
          local zeros = nn.where(x:gt(0), x:sign() * 0, -0.0 * x:abs():ceil()) -- of both signs
          x = nn.where(x:gt(1.6), 0 / 0, nn.where(x:lt(-1), -math.huge, zeros)):permute(1, 4, 2, 3)
          local with = {return_indices = true}
          for name, value in pairs(options) do with[name] = value end
          local a, b = nn.F.max_pool2d(x, size, options), (nn.F.max_pool2d(x, size, with))
          assert.is_true((a:eq(b) | (a:ne(a) & b:ne(b))):all():item())
          assert.is_true((a:reciprocal():eq(b:reciprocal()) | a:ne(a)):all():item()) -- zeros have their signs
        end
      end
    end
  end)

  it("takes the first of equal elements, and NaN for larger than any", function()
    local nan = 0 / 0
    local x = nn.tensor({{3, 3, 1, nan, 2, 5, -math.huge, -math.huge}}, {requires_grad = true})
    local y, places = nn.F.max_pool1d(x, 2, {return_indices = true})
    assert.same({{1, 4, 6, 7}}, places:totable())
    assert.equal("nan", tostring(y[{1, 2}]:item()):match "nan")
    y:sum():backward()
    assert.same({{1, 0, 0, 1, 0, 1, 1, 0}}, x.grad:totable())
  end)

  it("says which window does not fit", function()
    says(function() nn.F.max_pool2d(nn.zeros(2, 3, 4, 6), 5) end,
      "max_pool2d: the window reaches over 5 places, but dimension 3 of input (2x3x4x6) has 4 with padding")
    says(function() nn.F.max_pool2d(nn.zeros(2, 3, 4, 6), 2, {padding = 2}) end,
      "padding must be 0 to 1, half the window, got 2")
    says(function() nn.F.max_pool2d(nn.zeros(4, 6), 2) end, "input (4x6) must have 4 dimensions")
    says(function() nn.F.max_pool2d(nn.zeros(3, 4, 6), {2, 2, 2}) end,
      "kernel_size must be one value or a list of 2, got 3")
    says(function() nn.F.max_pool2d(nn.zeros(3, 4, 6), 2, 0) end, "stride must be 1 or more, got 0")
    says(function() nn.F.avg_pool2d(nn.zeros(3, 4, 6), 2, {divisor_override = 0}) end, "divisor_override must not be 0")
    says(function() nn.F.adaptive_avg_pool1d(nn.zeros(3, 4), -1) end, "output_size must be 0 or more, got -1")
  end)
end)

describe("pooling and batch normalisation", function()
  it("give the same bits by one thread and by two", function()
    local script = [[
      local nn = require "nnlua"
      nn.manual_seed(5)
      local x = nn.randn(16, 24, 24, 20):permute(1, 4, 2, 3):detach()
      local layers = {nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(5), nn.BatchNorm2d(20)}
      for _, v in ipairs {x, x:contiguous()} do
        v.requires_grad = true
        for _, layer in ipairs(layers) do
          local y = layer(v)
          local g = nn.grad((y * y * y):sum(), {v})
          local bits = 0
          for _, t in ipairs {y:detach(), g} do
            for _, n in ipairs(t:flatten():totable()) do
              bits = bits * 31 + string.unpack("i8", string.pack("d", n))
            end
          end
          print(bits)
        end
      end
    ]]
    local function output(threads) return (select(2, helpers.nnlua {"--threads", threads, "-e", script})) end
    local one = output "1"
    assert.equal(8, select(2, one:gsub("\n", "")))
    assert.equal(one, output "2")
  end)
end)

describe("InstanceNorm", function()
  it("normalises each sample, and moves running statistics on by the means of the samples' own", function()
    local layer = nn.InstanceNorm1d(1, {momentum = 0.5, track_running_stats = true, eps = 0})
    local x = nn.tensor {{{1, 3}}, {{2, 6}}}
    assert.same({{{-1, 1}}, {{-1, 1}}}, layer(x):totable())
    assert.same({1.5, 3, 0}, {layer.running_mean:item(), layer.running_var:item(), layer.num_batches_tracked:item()})
    layer:eval()
    assert.is_true((layer(x) * math.sqrt(3) + 1.5 - x):abs():max():item() < 1e-6)
    layer:reset_running_stats()
    assert.same({0, 1}, {layer.running_mean:item(), layer.running_var:item()})
    -- there are no running ones
    assert.same({{{-1, 1}}, {{-1, 1}}}, nn.InstanceNorm1d(1, {eps = 0}):eval()(x):totable())
  end)

  it("has torch's names, defaults and text, and takes a sample alone", function()
    local names = {}
    for name in pairs(nn.InstanceNorm2d(4, {affine = true, track_running_stats = true}):state_dict()) do
      names[#names + 1] = name
    end
    table.sort(names)
    assert.same({"bias", "num_batches_tracked", "running_mean", "running_var", "weight"}, names)
    local bare = nn.InstanceNorm3d(4)
    assert.is_nil(next(bare:state_dict()))
    assert.equal("InstanceNorm3d(4, eps=1e-05, momentum=0.1, affine=false, track_running_stats=false)", tostring(bare))
    local x = nn.randn(3, 2, 4, 5)
    local layer = nn.InstanceNorm2d(2)
    assert.is_true(layer(x)[2]:equal(layer(x[2])))
  end)

  it("says what it cannot take", function()
    says(function() nn.InstanceNorm2d(3)(nn.zeros(2, 3)) end,
      "input (2x3) must have 3 or 4 dimensions, channels x height x width, or batch x channels x height x width")
    says(function() nn.InstanceNorm1d(3)(nn.zeros(2, 3, 1)) end,
      "input (2x3x1) has 1 value per channel in a sample, but its own statistics want more than 1")
    says(function() nn.InstanceNorm1d(3, {affine = true})(nn.zeros(2, 4, 5)) end,
      "weight (3) must hold a value for each of the 4 channels of input (2x4x5)")
    says(function() nn.F.instance_norm(nn.zeros(2, 4, 5), {use_input_stats = false}) end,
      "running_mean and running_var are needed unless use_input_stats is true")
  end)
end)
