-- Convolutions: what the modules hold and say, wrong arguments, and how results behave that lie channels last.
local helpers = require "spec.helpers"
local nn = helpers.nn

local function message(f, ...)
  local text = helpers.error_of(f, ...)
  assert(text, "no error")
  return text
end

local function says(wanted, f, ...)
  local text = message(f, ...)
  assert(text:find(wanted, 1, true), ("wanted %q in %q"):format(wanted, text))
end

describe("a convolution", function()
  local conv = nn.F.conv2d

  it("names what does not fit", function()
    local x = nn.zeros(8, 1, 28, 28)
    assert(message(conv, x, nn.zeros(4, 3, 3, 3)) == "conv2d: weight has 3 input channels, but input (8x1x28x28) has 1")
    says("weight has 2 input channels in each of 2 groups, but input (8x1x28x28) has 1", conv, x, nn.zeros(4, 2, 3, 3),
      {groups = 2})
    says("groups is 3, but it must divide the 4 output channels of weight (4x1x3x3)", conv, x, nn.zeros(4, 1, 3, 3),
      {groups = 3})
    says("groups is 0", conv, x, nn.zeros(4, 1, 3, 3), {groups = 0})
    says("input (28x28) must be channels x height x width or batch x channels x height x width", conv, nn.zeros(28, 28),
      nn.zeros(4, 1, 3, 3))
    says("weight (4x1x3) must be out_channels x in_channels / groups x height x width", conv, x, nn.zeros(4, 1, 3))
    says("bias (3) must have one element for each of the 4 output channels", conv, x, nn.zeros(4, 1, 3, 3), nn.zeros(3))
    says("the kernel reaches over 31 places, but with padding input (8x1x28x28) has 30", conv, x, nn.zeros(4, 1, 16, 3),
      {padding = 1, dilation = 2})
    says("stride is 0, but it must be at least 1", conv, x, nn.zeros(4, 1, 3, 3), {stride = {1, 0}})
    says("padding is -1, but it must be at least 0", conv, x, nn.zeros(4, 1, 3, 3), {padding = -1})
    says("dilation is 0, but it must be at least 1", conv, x, nn.zeros(4, 1, 3, 3), {dilation = 0})
    says('padding "same" needs a stride of 1, got 2', conv, x, nn.zeros(4, 1, 3, 3), {stride = 2, padding = "same"})
    says('padding is "smae", but it can be: valid|same', conv, x, nn.zeros(4, 1, 3, 3), {padding = "smae"})
    says("padding must be an integer or a list of them or a string, got 1.5", conv, x, nn.zeros(4, 1, 3, 3),
      {padding = 1.5})
    says("stride must be one value or a list of 2, got 3", conv, x, nn.zeros(4, 1, 3, 3), {stride = {1, 1, 1}})
    says("weight (4x1x0x3) has no taps", conv, x, nn.zeros(4, 1, 0, 3))
  end)

  it("gives sizes, and nothing for no samples", function()
    local y = conv(nn.zeros(0, 2, 9, 9), nn.zeros(3, 2, 3, 3), nn.zeros(3), {stride = 2, padding = 1})
    assert(tostring(y.shape) == "0x3x5x5")
    local w = nn.ones(3, 2, 3, 3, {requires_grad = true})
    conv(nn.zeros(0, 2, 9, 9), w):sum():backward()
    assert(w.grad:abs():sum():item() == 0)
    -- no input channels: the bias alone
    y = conv(nn.zeros(1, 0, 3, 3), nn.zeros(2, 0, 3, 3), nn.tensor {1, 2})
    assert(y:flatten():equal(nn.tensor {1, 2}))
  end)

  it("makes the bias's gradient without the weight's", function()
    local b = nn.zeros(3, {requires_grad = true})
    conv(nn.ones(2, 2, 4, 4), nn.ones(3, 2, 3, 3), b):sum():backward()
    assert(b.grad:equal(nn.tensor {8, 8, 8}))
    b.grad = nil
    nn.F.conv1d(nn.ones(2, 4), nn.ones(3, 2, 3), b):sum():backward()
    assert(b.grad:equal(nn.tensor {2, 2, 2}))
  end)

  -- What was allocated at most beyond what is left: f's results and what they hold are left.
  local function workspace(f)
    collectgarbage()
    collectgarbage()
    collectgarbage "stop" -- what others left behind goes before or after
    nn.memory "trim" -- cached blocks count as well
    nn.memory "reset"
    local results = table.pack(f())
    local memory = nn.memory()
    collectgarbage "restart"
    return memory.peak - memory.live, results
  end

  it("needs little memory beside its results", function()
    local x, w = nn.randn(16, 64, 56, 56), nn.randn(64, 64, 3, 3)
    local size = x:numel() * 4
    local bytes = workspace(function() return conv(x, w, {padding = 1}) end)
    assert(bytes < 4 * 2 ^ 20, ("forward: %d bytes"):format(bytes))
    x.requires_grad, w.requires_grad = true, true
    local y = conv(x, w, {padding = 1})
    local dy = nn.ones_like(y)
    -- the sum's gradient is expanded, the product's is one tensor of y's size; blocks are up to a quarter larger
    bytes = workspace(function() return nn.grad((y * dy):sum(), {x, w}) end)
    assert(bytes < 4 * 2 ^ 20 + 2 * 1.25 * size, ("backward: %d bytes"):format(bytes))
  end)
end)

describe("a convolution for which memory fails", function()
  it("says so, keeps nothing, and succeeds the next time", function()
    local x, w, b = nn.randn(2, 4, 9, 9), nn.randn(6, 4, 3, 3), nn.randn(6)
    local function step(options)
      local xs, ws, bs = x:detach(), w:detach(), b:detach()
      xs.requires_grad, ws.requires_grad, bs.requires_grad = true, true, true
      return nn.grad(nn.F.conv2d(xs, ws, bs, options):view(2, -1):square():sum(), {xs, ws, bs})
    end
    for _, options in ipairs {{padding = 1}, {stride = 2, padding = 1}} do
      local wanted = {step(options)}
      collectgarbage()
      local live, failures = nn.memory().live, 0
      for at = 1, 1000 do
        nn.fail_allocation(at, true)
        local results = table.pack(pcall(step, options))
        nn.fail_allocation(0)
        if results[1] then
          for i, x_ in ipairs(wanted) do helpers.assert_same("gradient " .. i, results[1 + i], x_) end
          break
        end
        failures = failures + 1
        assert(tostring(results[2]):find("memory", 1, true), tostring(results[2]))
      end
      assert(failures > 20, failures .. " failures")
      collectgarbage()
      assert(nn.memory().live <= live + 4096, ("%d bytes more"):format(nn.memory().live - live))
    end
  end)
end)

describe("a result that lies channels last", function()
  local x, w, y, flat

  before_each(function()
    nn.manual_seed(3)
    x, w = nn.randn(2, 3, 5, 4), nn.randn(6, 3, 2, 2)
    y = nn.F.conv2d(x, w)
    flat = y:contiguous()
  end)

  it("says so in its strides only", function()
    assert(tostring(y.shape) == "2x6x4x3")
    local strides = {}
    for i, step in ipairs(y:stride()) do strides[i] = ("%d"):format(step) end
    assert(table.concat(strides, " ") == "72 1 18 6", table.concat(strides, " "))
    assert(not y:is_contiguous() and flat:is_contiguous())
    assert(tostring(y) == tostring(flat))
    assert(y:equal(flat))
  end)

  it("is reshaped, viewed and flattened as any other", function()
    assert(y:view(2, -1):equal(flat:view(2, -1)))
    assert(y:view(6, 24):equal(flat:view(6, 24)))
    assert(y:flatten(2):equal(flat:flatten(2)))
    assert(y:reshape(-1):equal(flat:reshape(-1)))
    assert(y:view_as(nn.zeros(12, 12)):equal(flat:view(12, 12)))
    assert(nn.Flatten()(y):equal(flat:view(2, 72)))
    -- but no other tensor is copied by view
    assert(helpers.error_of(function() return nn.ones(2, 3):t():view(6) end))
  end)

  it("passes gradients through a view that copied", function()
    w.requires_grad = true
    local r = nn.randn(2, 72)
    local a = nn.grad((nn.F.conv2d(x, w):view(2, 72) * r):sum(), {w})
    local b = nn.grad((nn.F.conv2d(x, w):contiguous():view(2, 72) * r):sum(), {w})
    helpers.assert_close("gradient", a, b, {scale = 10})
  end)

  it("is indexed and changed in place as any other", function()
    assert(y[2]:equal(flat[2]) and y[{1, {}, 2}]:equal(flat[{1, {}, 2}]))
    assert(y:select(2, 3):equal(flat:select(2, 3)))
    y[{1, 2}] = 0
    flat[{1, 2}] = 0
    assert(y:equal(flat))
    y:add_(1):relu_()
    flat:add_(1):relu_()
    assert(y:equal(flat))
    y:select(3, 1):fill_(7)
    flat:select(3, 1):fill_(7)
    assert(y:equal(flat))
    y:narrow(2, 2, 3):mul_(2)
    flat:narrow(2, 2, 3):mul_(2)
    assert(y:equal(flat))
    y:copy_(flat + 1)
    assert(y:equal(flat + 1))
  end)

  it("goes through reductions and products", function()
    helpers.assert_close("sum", y:sum({1, 3}), flat:sum({1, 3}), {scale = 50})
    helpers.assert_close("matmul", y:matmul(nn.ones(3, 2)), flat:matmul(nn.ones(3, 2)), {scale = 50})
    assert(y:max():item() == flat:max():item())
    local _, places = y:max(2)
    local _, wanted = flat:max(2)
    assert(places:equal(wanted))
    assert(nn.cat({y, y}, 2):equal(nn.cat({flat, flat}, 2)))
    assert(y:to("f64"):equal(flat:to("f64")))
  end)

  it("is saved and loaded in the order of its dimensions", function()
    local path = os.tmpname()
    nn.save(path, {y = y})
    assert(nn.load(path).y:clone():equal(flat))
    os.remove(path)
  end)
end)

describe("the modules of convolutions", function()
  it("hold parameters as torch's do", function()
    local c = nn.Conv2d(6, 8, {3, 5}, {groups = 2})
    local names = {}
    for name, p in c:named_parameters() do names[#names + 1] = name .. " " .. tostring(p.shape) end
    assert(table.concat(names, ", ") == "weight 8x3x3x5, bias 8")
    assert(tostring(nn.Conv1d(2, 4, 3).weight.shape) == "4x2x3")
    assert(tostring(nn.Conv3d(2, 4, {1, 2, 3}).weight.shape) == "4x2x1x2x3")
    assert(nn.Conv2d(1, 1, 1, {bias = false}).bias == nil)
  end)

  it("start uniform within 1 / sqrt(fan in)", function()
    nn.manual_seed(1)
    local c = nn.Conv2d(16, 200, 3)
    local bound = 1 / math.sqrt(16 * 9)
    assert(c.weight:max():item() < bound and c.weight:min():item() >= -bound)
    assert(c.weight:max():item() > 0.99 * bound and c.weight:min():item() < -0.99 * bound)
    assert(math.abs(c.weight:std():item() - bound / math.sqrt(3)) < 0.01 * bound)
    assert(c.bias:abs():max():item() <= bound and c.bias:abs():max():item() > 0.9 * bound)
  end)

  it("print their options", function()
    assert(tostring(nn.Conv2d(3, 8, 3)) == "Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))")
    assert(tostring(nn.Conv1d(3, 8, 3, 2, 1)) == "Conv1d(3, 8, kernel_size=(3,), stride=(2,), padding=(1,))")
    local all = {stride = {2, 1}, padding = 1, dilation = 2, groups = 2, bias = false, padding_mode = "circular"}
    assert(tostring(nn.Conv2d(4, 8, {3, 5}, all)) == "Conv2d(4, 8, kernel_size=(3, 5), stride=(2, 1), padding=(1, 1), "
      .. "dilation=(2, 2), groups=2, bias=false, padding_mode=circular)")
    assert(tostring(nn.Conv2d(4, 8, 3, {padding = "same"}))
      == "Conv2d(4, 8, kernel_size=(3, 3), stride=(1, 1), padding=same)")
  end)

  it("refuse what cannot be", function()
    says("Conv2d: groups (2) must divide in_channels (3)", nn.Conv2d, 3, 8, 3, {groups = 2})
    says("Conv2d: groups (3) must divide out_channels (8)", nn.Conv2d, 3, 8, 3, {groups = 3})
    says("Conv2d: kernel_size must be a size (an integer, 0 or more) or a list of 2, got a table", nn.Conv2d, 3, 8,
      {3, 3, 3})
    says("Conv2d: stride must be 1 or more, got 0", nn.Conv2d, 3, 8, 3, {stride = 0})
    says('Conv2d: padding "same" needs a stride of 1, got (2, 1)', nn.Conv2d, 3, 8, 3,
      {stride = {2, 1}, padding = "same"})
    says('Conv2d: padding is "full", but it can be: valid, same', nn.Conv2d, 3, 8, 3, {padding = "full"})
    says('Conv2d: padding_mode is "mirror", but it can be: zeros, reflect, replicate, circular', nn.Conv2d, 3, 8, 3,
      {padding_mode = "mirror"})
    says("Conv2d: there is no option 'strid' (did you mean 'stride'?)", nn.Conv2d, 3, 8, 3, {strid = 2})
    says("0 (Conv2d): conv2d: weight has 3 input channels, but input (1x4x5x5) has 4",
      nn.Sequential(nn.Conv2d(3, 8, 3)), nn.zeros(1, 4, 5, 5))
  end)

  it("count their operations", function()
    local c = nn.Conv2d(3, 8, 3)
    assert(c:flops(nn.zeros(2, 8, 5, 5)) == 2 * 8 * 25 * 2 * 27)
  end)

  it("take one image without a batch", function()
    local c, x = nn.Conv2d(3, 5, 3, {padding = 1, padding_mode = "reflect"}), nn.randn(2, 3, 6, 7)
    assert(c(x[1]):equal(c(x)[1]))
  end)
end)

describe("pad", function()
  it("names what does not fit", function()
    local pad, x = nn.F.pad, nn.zeros(2, 3)
    says("pad has 3 numbers, but input (2x3) takes pairs, at most 2", pad, x, {1, 2, 3})
    says("pad is 3 and 0, but dimension 2 of input (2x3) can be padded by at most 2", pad, x, {3, 0}, "reflect")
    says("pad is 4 and 0, but dimension 2 of input (2x3) can be padded by at most 3", pad, x, {4, 0}, "circular")
    says("pad is -4 and 0, which does not fit dimension 2 of input (2x3)", pad, x, {-4, 0})
    says('mode is "mirror"', pad, x, {1, 1}, "mirror")
  end)
end)
