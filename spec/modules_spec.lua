-- Modules: what they hold, what they are called, how they are copied, saved and shown; initial values.
local helpers = require "spec.helpers"
local nn = helpers.nn

local function names(iterator)
  local list = {}
  for name in iterator do list[#list + 1] = name end
  return list
end

local function sorted_keys(t)
  local list = {}
  for key in pairs(t) do list[#list + 1] = key end
  table.sort(list)
  return list
end

-- The same network is written in torch as the comment says; the names below are what torch gives.
--   class Net(Module):
--     def __init__(self):
--       self.layers = ModuleList([Linear(2, 3), Linear(3, 3)])
--       self.scale = Parameter(ones(3))
--       self.heads = ModuleDict({"b": Linear(3, 2), "a": Linear(3, 1)})
--       self.register_buffer("mean", zeros(2))
local Net = nn.Module:subclass "Net"

function Net:init()
  self.layers = {nn.Linear(2, 3), nn.Linear(3, 3)}
  self.scale = nn.Parameter(nn.ones(3))
  self.heads = {b = nn.Linear(3, 2), a = nn.Linear(3, 1)}
  self:register_buffer("mean", nn.zeros(2))
end

function Net:forward(x)
  for _, layer in ipairs(self.layers) do x = nn.F.relu(layer(x)) * self.scale end
  return self.heads.a(x), self.heads.b(x)
end

describe("a module", function()
  it("names its parameters in torch's order, its own before those inside", function()
    assert.same({"scale", "layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias", "heads.b.weight",
      "heads.b.bias", "heads.a.weight", "heads.a.bias"}, names(Net():named_parameters()))
    assert.same({"mean"}, names(Net():named_buffers()))
    assert.same({"", "layers.0", "layers.1", "heads.b", "heads.a"}, names(Net():named_modules()))
    assert.same({"layers.0", "layers.1", "heads.b", "heads.a"}, names(Net():named_children()))
  end)

  it("gives the same parameters by name and as a list", function()
    local net = Net()
    local list, i = net:parameters(), 0
    for _, p in net:named_parameters() do
      i = i + 1
      assert.equal(p, list[i])
    end
    assert.equal(#list, i)
  end)

  it("keeps the place of a field that is assigned again", function()
    local net = nn.Module:subclass "Order"()
    net.first, net.second = nn.Linear(1, 1), nn.ReLU()
    net.first = nil
    net.third = nn.Linear(1, 1)
    net.first = nn.Tanh()
    assert.same({"", "first", "second", "third"}, names(net:named_modules()))
  end)

  it("takes the fields of one assignment from left to right", function()
    local net = nn.Module:subclass "Several"()
    local shared = nn.Tanh()
    net.a, net.b, net.n, net.c = nn.Linear(1, 1), {nn.ReLU()}, 5, nn.Linear(1, 1)
    net.d = nn.Linear(1, 1) net.e = shared
    net.w, net.v = nn.Parameter(nn.ones(1)), nn.Parameter(nn.ones(1))
    assert.same({"", "a", "b.0", "c", "d", "e"}, names(net:named_modules()))
    assert.same({"w", "v"}, {names(net:named_parameters())[1], names(net:named_parameters())[2]})
  end)

  it("finds what is put into its lists later", function()
    local net = Net()
    net.layers[3] = nn.Linear(3, 3, {bias = false})
    assert.equal("layers.2.weight", names(net:named_parameters())[6])
  end)

  it("counts a tied parameter once, but names it twice in its state", function()
    local net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[2].weight = net[1].weight
    assert.equal(3, #net:parameters())
    assert.same({"0.bias", "0.weight", "1.bias", "1.weight"}, sorted_keys(net:state_dict()))
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    net:append(net[1])
    assert.equal(2, #net:parameters())
    assert.same({"0.bias", "0.weight", "2.bias", "2.weight"}, sorted_keys(net:state_dict()))
  end)

  it("may hold itself", function()
    local net = Net()
    net.config = {owner = net}
    assert.equal(9, #net:parameters())
    assert.equal(10, #sorted_keys(net:state_dict()))
  end)

  it("keeps frozen parameters, and takes no result or plain tensor for one", function()
    local net = Net()
    net:requires_grad_(false)
    assert.equal(9, #net:parameters())
    net.constant = nn.ones(3)
    net.result = nn.Parameter(nn.ones(3)) * 2
    assert.equal(9, #net:parameters())
    net:requires_grad_()
    assert.is_true(net.scale.requires_grad)
  end)

  it("lets Parameter share the tensor's memory", function()
    local t = nn.zeros(3)
    local p = nn.Parameter(t)
    t[2] = 5
    assert.equal(5, p[2]:item())
    assert.is_true(p.requires_grad and p.is_leaf)
    assert.is_false(t.requires_grad)
    assert.is_false(nn.Parameter(t, false).requires_grad)
    assert.is_false(nn.Parameter(t, {requires_grad = false}).requires_grad)
  end)

  it("sets the mode of everything inside", function()
    local net = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5)))
    assert.is_true(net[2][1].training)
    assert.equal(net, net:eval())
    assert.is_false(net[1].training or net[2].training or net[2][1].training)
    net:train()
    assert.is_true(net[1].training and net[2].training and net[2][1].training)
    net:train(false)
    assert.is_false(net[2][1].training)
  end)

  it("forgets its gradients", function()
    local net = nn.Linear(2, 1)
    net(nn.ones(1, 2)):sum():backward()
    assert.is_truthy(net.weight.grad)
    net:zero_grad()
    assert.is_nil(net.weight.grad)
    assert.is_nil(net.bias.grad)
  end)

  it("hands on several arguments and results", function()
    local Swap = nn.Module:subclass "Swap"
    function Swap:forward(a, b) return b, a, self.training end
    local a, b = nn.ones(1), nn.zeros(1)
    local x, y, z = Swap()(a, b)
    assert.is_true(x == b and y == a and z == true)
    local None = nn.Module:subclass "None"
    function None:forward() self.called = true end
    assert.equal(0, select("#", None()()))
  end)

  it("inherits from its class's parent", function()
    local Wide = Net:subclass "Wide"
    function Wide:init()
      Net.init(self)
      self.extra = nn.Linear(1, 1)
    end
    local net = Wide()
    assert.equal(11, #net:parameters())
    assert.equal("Wide", net.__name)
    local a, b = net(nn.ones(2, 2))
    assert.same({2, 1}, {a:size(1), a:size(2)})
    assert.equal(2, b:size(2))
  end)

  it("changes the type of what optimizers know, with its gradient, and of what is tied once", function()
    local net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[2].weight = net[1].weight
    net:register_buffer("mean", nn.ones(2))
    local weight, mean = net[1].weight, net.mean
    local optimizer = nn.optim.SGD(net:parameters(), {lr = 1})
    local function run(dtype) net(nn.ones(1, 2, {dtype = dtype})):sum():backward() end
    run "f32"
    local gradient, before = weight.grad:totable(), weight:totable()
    assert.equal(net, net:to("f64"))
    assert.is_true(net[1].weight == weight and net[2].weight == weight and weight.is_leaf)
    assert.same({"f64", "f64", "f64"}, {weight.dtype, weight.grad.dtype, net.mean.dtype})
    assert.equal("f32", mean.dtype)
    assert.same({gradient, before}, {weight.grad:totable(), weight:totable()})
    assert.equal(3, #net:parameters())
    optimizer:zero_grad()
    run "f64"
    optimizer:step()
    assert.is_false(weight:equal(nn.tensor(before, "f64")))
    net[1]:requires_grad_(false):to("f32")
    assert.same({"f32", false}, {weight.dtype, weight.requires_grad})
    assert.equal(3, #net:parameters())
  end)

  it("applies a function from the inside to the outside", function()
    local order = {}
    nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Tanh())):apply(function(m) order[#order + 1] = m.__name end)
    assert.same({"Linear", "Tanh", "Sequential", "Sequential"}, order)
  end)
end)

describe("Sequential", function()
  it("has a length, members and an end", function()
    local net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    assert.equal(2, #net)
    assert.equal("ReLU", net[2].__name)
    assert.equal(net, net:append(nn.Linear(3, 1)))
    assert.equal("3 1", net(nn.ones(3, 2)):size(1) .. " " .. net(nn.ones(3, 2)):size(2))
    assert.equal(2, #nn.Sequential {nn.ReLU(), nn.Tanh()})
    assert.equal(0, #nn.Sequential())
    assert.equal(net[#net], net[-1])
    assert.equal(net[1], nn.ModuleList({net[1], net[2]})[-2])
    assert.is_nil(net[#net + 1]) -- where ipairs stops
    for _, place in ipairs {0, -#net - 1} do
      local message = helpers.error_of(function() return net[place] end)
      assert.is_truthy(message:find("Sequential: position " .. place .. " is out of range", 1, true), message)
    end
  end)

  it("hands on the first result of each module", function()
    local Two = nn.Module:subclass "Two"
    function Two:forward(x) return x + 1, self.training end
    local results = table.pack(nn.Sequential(Two(), Two())(nn.zeros(1)))
    assert.equal(1, results.n)
    assert.equal(2, results[1]:item())
  end)
end)

describe("ModuleList and ModuleDict", function()
  it("hold modules by place and by name", function()
    local net = nn.Module:subclass "Holder"()
    net.list = nn.ModuleList {nn.Linear(1, 2), nn.ReLU()}
    net.dict = nn.ModuleDict {z = nn.Tanh(), a = nn.Linear(2, 1)}
    net.dict.b = nn.Linear(1, 1)
    assert.same({"", "list", "list.0", "list.1", "dict", "dict.z", "dict.a", "dict.b"}, names(net:named_modules()))
    assert.equal(2, #net.list)
    net.list:append(nn.Linear(2, 2))
    assert.equal(8, #net:parameters())
  end)
end)

describe("state_dict", function()
  it("is live, or a snapshot", function()
    local net = nn.Linear(2, 1)
    local live, snapshot = net:state_dict(), net:state_dict {copy = true}
    nn.no_grad(function() net.weight:fill_(7) end)
    assert.equal(7, live.weight[{1, 1}]:item())
    assert.not_equal(7, snapshot.weight[{1, 1}]:item())
    live.bias:fill_(3)
    assert.equal(3, net.bias:item())
    assert.is_false(live.weight.requires_grad)
  end)

  it("has the buffers that are persistent", function()
    local net = Net()
    net:register_buffer("scratch", nn.zeros(1), false)
    net:register_buffer("scratch2", nn.zeros(1), {persistent = false})
    assert.is_truthy(net:state_dict().mean)
    assert.is_nil(net:state_dict().scratch)
    assert.is_nil(net:state_dict().scratch2)
    assert.same({"mean", "scratch", "scratch2"}, names(net:named_buffers()))
  end)

  it("moves from one module to another", function()
    nn.manual_seed(1)
    local a, b = Net(), Net()
    b:load_state_dict(a:state_dict())
    local x = nn.randn(4, 2)
    local a1, a2 = a(x)
    local b1, b2 = b(x)
    assert.is_true(a1:equal(b1) and a2:equal(b2))
    assert.is_true(b.scale.requires_grad and b.scale.is_leaf)
  end)

  it("says what was missing and unexpected when it need not fit", function()
    local net = nn.Linear(2, 1)
    local missing, unexpected = net:load_state_dict({weight = nn.ones(1, 2), other = nn.ones(1)}, {strict = false})
    assert.same({"bias"}, missing)
    assert.same({"other"}, unexpected)
    assert.equal(1, net.weight[{1, 2}]:item())
  end)

  it("goes through a file", function()
    local path = os.tmpname()
    local a, b = Net(), Net()
    a:save(path, {meta = {epoch = 3}})
    local meta = b:load(path)
    os.remove(path)
    assert.equal(3, meta.epoch)
    for name, value in pairs(a:state_dict()) do assert.is_true(value:equal(b:state_dict()[name]), name) end
  end)
end)

describe("clone and to", function()
  it("clone gives tensors of its own and keeps what is tied", function()
    local net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[2].weight = net[1].weight
    net[1].bias.requires_grad = false
    local twin = net:clone()
    assert.equal(twin[1].weight, twin[2].weight)
    assert.not_equal(net[1].weight, twin[1].weight)
    assert.is_true(net[1].weight:equal(twin[1].weight))
    assert.is_false(twin[1].bias.requires_grad)
    assert.equal(3, #twin:parameters())
    nn.no_grad(function() twin[1].weight:fill_(0) end)
    assert.is_false(net[1].weight:equal(twin[1].weight))
    local a = Net()
    local b = a:clone()
    assert.same(names(a:named_parameters()), names(b:named_parameters()))
    assert.same(names(a:named_modules()), names(b:named_modules()))
  end)

  it("to converts parameters and buffers of floating types", function()
    local net = Net()
    net:register_buffer("count", nn.zeros(1, {dtype = "i64"}))
    net.layers[1] = nn.Linear(2, 3)
    net.layers[1].bias = net.layers[2].bias
    assert.equal(net, net:to "f64")
    for _, p in ipairs(net:parameters()) do assert.is_true(p.dtype == "f64" and p.requires_grad and p.is_leaf) end
    assert.equal("f64", net.mean.dtype)
    assert.equal("i64", net.count.dtype)
    assert.equal(net.layers[1].bias, net.layers[2].bias)
    local out = net(nn.ones(1, 2, {dtype = "f64"}))
    assert.equal("f64", out.dtype)
  end)
end)

describe("print and summary", function()
  it("show a model as torch does", function()
    local net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10, {bias = false}), nn.Sequential(nn.LeakyReLU(0.2),
      nn.Dropout(0.5)), nn.ELU())
    assert.equal([[
Sequential(
  (0): Flatten(start_dim=2, end_dim=-1)
  (1): Linear(in_features=784, out_features=10, bias=false)
  (2): Sequential(
    (0): LeakyReLU(negative_slope=0.2)
    (1): Dropout(p=0.5, inplace=false)
  )
  (3): ELU(alpha=1.0)
)]], tostring(net))
    assert.equal([[
Net(
  (layers): ModuleList(
    (0): Linear(in_features=2, out_features=3, bias=true)
    (1): Linear(in_features=3, out_features=3, bias=true)
  )
  (heads): ModuleDict(
    (b): Linear(in_features=3, out_features=2, bias=true)
    (a): Linear(in_features=3, out_features=1, bias=true)
  )
)]], tostring(Net()))
  end)

  it("count parameters and operations of each layer", function()
    local net = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    local rows = net:summary({64, 784}, {rows = true})
    assert.same({"", "0", "1", "2"}, {rows[1].name, rows[2].name, rows[3].name, rows[4].name})
    assert.equal("64x128", rows[2].output)
    assert.equal(784 * 128 + 128, rows[2].parameters)
    assert.equal(64 * 128 * 2 * 784, rows[2].flops) -- a product and a sum for each weight, the bias among them
    assert.equal(64 * 128, rows[3].flops)
    assert.equal("64x10", rows[4].output)
    local text = net:summary({64, 784})
    assert.is_truthy(text:find("101 770", 1, true)) -- 100 480 + 1 290
    assert.is_truthy(text:find("0 (Linear)", 1, true))
  end)

  it("leave the model's mode as it was", function()
    local net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    net[1]:eval()
    net:summary({3, 2})
    assert.is_true(net.training and net[2].training and not net[1].training)
  end)
end)

describe("initial values", function()
  local function moments(t)
    local mean = t:mean():item()
    return mean, (t - mean):pow(2):mean():sqrt():item()
  end

  it("of Linear are uniform within 1 / sqrt(in_features)", function()
    nn.manual_seed(7)
    local layer = nn.Linear(400, 300)
    local bound = 1 / 20
    assert.is_true(layer.weight:detach():abs():max():item() <= bound)
    assert.is_true(layer.bias:detach():abs():max():item() <= bound)
    local mean, std = moments(layer.weight:detach())
    assert.is_true(math.abs(mean) < 5 * bound / math.sqrt(3 * 120000))
    assert.is_true(math.abs(std / (bound / math.sqrt(3)) - 1) < 0.02)
  end)

  it("of Embedding are standard normal, with a row of zeros for padding", function()
    nn.manual_seed(8)
    local layer = nn.Embedding(1000, 50, {padding_idx = 3})
    local mean, std = moments(layer.weight:detach())
    assert.is_true(math.abs(mean) < 0.03 and math.abs(std - 1) < 0.02)
    assert.equal(0, layer.weight:detach():select(1, 3):abs():sum():item())
    assert.equal(1000, nn.Embedding(1000, 2, {padding_idx = -1}).padding_idx)
  end)

  -- torch.nn.init's documented formulas: fan_in = 50 * 6, fan_out = 40 * 6 for a 40 x 50 x 2 x 3 weight
  local formulas = {
    {"xavier_uniform_", {2}, 2 * math.sqrt(6 / 540) / math.sqrt(3)},
    {"xavier_normal_", {}, math.sqrt(2 / 540)},
    {"kaiming_uniform_", {{nonlinearity = "relu"}}, math.sqrt(2 / 300)},
    {"kaiming_normal_", {0.2, "fan_out"}, math.sqrt(2 / 1.04 / 240)},
    {"uniform_", {-2, 4}, 6 / math.sqrt(12)},
    {"normal_", {1, 3}, 3},
  }
  for _, case in ipairs(formulas) do
    it(case[1] .. " has the standard deviation of its formula", function()
      nn.manual_seed(9)
      local t = nn.zeros(40, 50, 2, 3)
      assert.equal(t, nn.init[case[1]](t, table.unpack(case[2])))
      local _, std = moments(t)
      assert.is_true(math.abs(std / case[3] - 1) < 0.03, std .. " against " .. case[3])
    end)
  end

  it("fill parameters without entering a graph", function()
    local p = nn.Parameter(nn.ones(2, 3))
    nn.init.zeros_(p)
    nn.init.constant_(p, 4)
    nn.init.eye_(p)
    assert.same({{1, 0, 0}, {0, 1, 0}}, p:totable())
    assert.is_true(p.is_leaf and p.requires_grad)
  end)

  it("calculate_gain gives torch's values", function()
    local gain = nn.init.calculate_gain
    assert.equal(1, gain "linear")
    assert.equal(5 / 3, gain "tanh")
    assert.equal(math.sqrt(2), gain "relu")
    assert.equal(0.75, gain "selu")
    assert.is_true(math.abs(gain("leaky_relu", 0.2) - 1.386750490563073) < 1e-15)
    assert.is_true(math.abs(gain "leaky_relu" - 1.4141428569978354) < 1e-15)
  end)

  it("orthogonal_ makes rows or columns orthonormal", function()
    nn.manual_seed(10)
    for _, shape in ipairs {{20, 20}, {30, 10}, {10, 30}, {6, 2, 5}} do
      local t = nn.init.orthogonal_(nn.zeros(shape, {dtype = "f64"}), 3):reshape(shape[1], -1) / 3
      if t:size(1) > t:size(2) then t = t:t() end
      assert.is_true((t:mm(t:t()) - nn.eye(t:size(1), {dtype = "f64"})):abs():max():item() < 1e-14)
    end
  end)

  it("trunc_normal_ stays within its ends, with the known spread", function()
    nn.manual_seed(11)
    local t = nn.init.trunc_normal_(nn.zeros(200, 100))
    assert.is_true(t:abs():max():item() <= 2)
    local mean, std = moments(t)
    assert.is_true(math.abs(mean) < 0.03)
    assert.is_true(math.abs(std - 0.8796256610342398) < 0.02) -- sqrt(1 - 2 * 2 phi(2) / (2 Phi(2) - 1))
    t = nn.init.trunc_normal_(nn.zeros(200, 100), 0, 1, 3, 5)
    assert.is_true(t:min():item() >= 3 and t:max():item() <= 5)
    assert.is_true(math.abs(t:mean():item() - 3.2828) < 0.02) -- (phi(3) - phi(5)) / (Phi(5) - Phi(3))
  end)

  it("sparse_ leaves the wanted share of each column 0", function()
    local t = nn.init.sparse_(nn.zeros(10, 4), 0.25)
    assert.same({3, 3, 3, 3}, t:eq(0):sum(1):totable()) -- ceil(2.5)
  end)

  it("dirac_ passes channels through", function()
    local t = nn.init.dirac_(nn.zeros(4, 2, 3), 2)
    assert.equal(4, t:sum():item())
    for _, place in ipairs {{1, 1, 2}, {2, 2, 2}, {3, 1, 2}, {4, 2, 2}} do assert.equal(1, t[place]:item()) end
  end)
end)

describe("layers", function()
  it("Dropout scales what it keeps in training, and does nothing else", function()
    nn.manual_seed(3)
    local layer, x = nn.Dropout(0.25), nn.ones(100, 100)
    local y = layer(x)
    local kept = y:ne(0):sum():item()
    assert.is_true(math.abs(kept - 7500) < 250)
    assert.is_true(math.abs(y:max():item() - 4 / 3) < 1e-6)
    layer:eval()
    assert.is_true(layer(x):equal(x))
  end)

  it("Embedding gives no gradient to the padding", function()
    local layer = nn.Embedding(4, 2, {padding_idx = 2})
    layer(nn.tensor({1, 2, 2, 4}, "i64")):sum():backward()
    assert.same({{1, 1}, {0, 0}, {0, 0}, {1, 1}}, layer.weight.grad:totable())
  end)

  it("losses take class weights and keep them as buffers", function()
    local loss = nn.CrossEntropyLoss(nn.tensor({1, 3}))
    assert.same({"weight"}, names(loss:named_buffers()))
    assert.equal(0, #loss:parameters())
    -- equal scores: ln 2 for each sample, whatever the weights are
    local value = loss(nn.zeros(3, 2), nn.tensor({1, 2, 2}, "i64"))
    assert.is_true(math.abs(value:item() - math.log(2)) < 1e-6)
  end)

  it("binary cross entropy has the tutorial's four values", function()
    local loss = nn.BCELoss {reduction = "none"}
    local out = loss(nn.tensor({0.001, 0.999, 0.001, 0.999}), nn.tensor({0, 1, 1, 0})):totable()
    for i, want in ipairs {0.0010005, 0.0010005, 6.9078, 6.9078} do
      assert.is_true(math.abs(out[i] / want - 1) < 1e-4, i .. ": " .. out[i])
    end
  end)
end)

describe("functions around gradients", function()
  it("no_grad returns results and brings the mode back after an error", function()
    local p = nn.Parameter(nn.ones(2))
    local a, b = nn.no_grad(function(x) return (p * x).requires_grad, x end, 2)
    assert.is_false(a)
    assert.equal(2, b)
    assert.is_false(pcall(nn.no_grad, function() error "no" end))
    assert.is_true((p * 2).requires_grad)
  end)

  it("detach goes through tables", function()
    local p = nn.Parameter(nn.ones(2))
    local state = nn.detach {h = p * 2, list = {p * 3}, n = 5}
    assert.is_false(state.h.requires_grad or state.list[1].requires_grad)
    assert.equal(5, state.n)
    assert.equal(3, state.list[1][1]:item())
    assert.is_false(nn.detach(p * 2).requires_grad)
  end)

  it("gradcheck agrees with right gradients of both orders", function()
    nn.manual_seed(4)
    local x, w = nn.randn(3, 4), nn.randn(4, 2)
    assert.is_true(nn.gradcheck(function(a, b) return a:mm(b):tanh(), a:sum(1) end, {x, w}, {order = 2}))
    assert.is_true(nn.gradcheck(function(a, ids) return a:index_select(1, ids) * 2 end,
      {x, nn.tensor({3, 1, 1}, "i64")}, {order = 2}))
    assert.equal("f32", x.dtype)
  end)

  it("gradcheck finds a gradient that leaves a part out", function()
    local message = helpers.error_of(nn.gradcheck, function(a, b) return a * b:detach() + b end,
      {nn.ones(2), nn.tensor({{1, 2}, {3, 4}})})
    assert.is_truthy(message:find("gradient with respect to input 2 at (1, 1)", 1, true), message)
    -- right at first order, not followed at second
    local broken = function(a) return a * a.detach(a) * 2 - a:detach() * a:detach() end
    message = helpers.error_of(nn.gradcheck, broken, {nn.tensor({3})}, {order = 2})
    assert.is_truthy(message:find("second derivative with respect to input 1 at (1)", 1, true), tostring(message))
  end)

  it("compile calls the function with the same interface", function()
    local f = nn.compile(function(a, b) return a + b, b end)
    local x, y = f(nn.ones(1), 2)
    assert.equal(3, x:item())
    assert.equal(2, y)
    local s = nn.scalar(0.5)
    assert.equal("f32", (nn.ones(2) * s).dtype)
    s:fill_(0.25)
    assert.equal(0.25, (nn.ones(1) * s):item())
  end)
end)

describe("help", function()
  it("has a text for every module, loss, optimizer, schedule and initial value", function()
    local without = {}
    local function look(table_, prefix)
      for name, value in pairs(table_) do
        local public = type(value) == "table" and getmetatable(value) and name:find "^%u" or prefix == "init."
        if public and not nn.docs[value] and name ~= "Optimizer" and name ~= "LRScheduler" then
          without[#without + 1] = prefix .. name
        end
      end
    end
    local classes = {}
    for name, value in pairs(nn) do
      if name ~= "F" then classes[name] = value end
    end
    look(classes, "")
    look(nn.optim, "optim.")
    look(nn.init, "init.")
    look(nn.data, "data.")
    assert.same({}, without)
    assert.is_truthy(nn.docs[nn.Linear]:find("nn.Linear(in_features, out_features, bias = true)", 1, true))
  end)
end)
