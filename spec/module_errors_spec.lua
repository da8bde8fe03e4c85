-- What the library says when it is used wrongly: what, where, got, wanted.
local helpers = require "spec.helpers"
local nn, says = helpers.nn, helpers.says

-- The words that the message of f's error must have.
describe("a wrong name", function()
  it("is answered with the nearest one", function()
    says(function() return nn.Linera end, "nn: there is no field 'Linera' (did you mean 'Linear'?)")
    says(function() return nn.F.rleu end, "did you mean 'relu'?")
    says(function() return nn.optim.Adamw end, "did you mean 'AdamW'?")
    says(function() return nn.init.xavier_unifrom_ end, "did you mean 'xavier_uniform_'?")
    says(function() return nn.utils.clip_grad_norm end, "did you mean 'clip_grad_norm_'?")
    says(function() return nn.data.Tensordataset end, "did you mean 'TensorDataset'?")
    says(function() return nn.init.calculate_gain "rleu" end, "did you mean 'relu'?")
  end)

  it("is answered with the one that it begins", function()
    says(function() return nn.Sequent end, "did you mean 'Sequential'?")
    says(function() return nn.ones(2).requires end, "did you mean 'requires_grad'?")
    says(function() nn.ones(2):sum({keep = true}) end, "did you mean 'keepdim'?")
    says(function() nn.Dropout(0.5, {in_ = true}) end, "there are: p, inplace")
  end)
end)

describe("constructors", function()
  it("name the argument, what it got and what it wants", function()
    says(function() nn.Linear(3) end, "Linear: out_features is missing")
    says(function() nn.Linear() end, "Linear: in_features is missing")
    says(function() nn.Linear(3, 4.5) end, "Linear: out_features must be a size", "got 4.5")
    says(function() nn.Linear(3, -1) end, "Linear: out_features must be a size", "got -1")
    says(function() nn.Linear("3", 4) end, 'in_features must be a size', 'got the string "3"')
    says(function() nn.Linear(nn.ones(2, 3), 4) end, "a tensor (2x3)")
    says(function() nn.Linear(3, 4, {bias = 1}) end, "Linear: bias must be true or false, got 1")
    says(function() nn.ELU("big") end, "ELU: alpha must be a number")
    says(function() nn.Dropout(1.5) end, "Dropout: p must be in 0 .. 1, got 1.5")
    says(function() nn.Embedding(5, 2, {padding_idx = 6}) end, "padding_idx is 6, but positions are 1 to 5")
    says(function() nn.CrossEntropyLoss {reduction = "men"} end, 'reduction is "men", but it can be: mean, sum, none')
    says(function() nn.CrossEntropyLoss {weight = {1, 2}} end, "weight must be a tensor, got a table")
    says(function() nn.Parameter(3) end, "Parameter: argument 1 must be a tensor, got 3")
  end)

  it("know their options", function()
    says(function() nn.Linear(3, 4, {bais = true}) end, "Linear: there is no option 'bais' (did you mean 'bias'?)")
    says(function() nn.Linear(3, 4, true, {bias = true}) end, "bias is given twice")
    says(function() nn.Linear(3, 4, {bias = true, 5}) end, "a list or names options, not both")
    says(function() nn.Linear(3, 4, true, 5) end, "takes at most 3 arguments, got 4", "parentheses")
  end)

  it("tell lists from options wherever they stand", function()
    local w = nn.ones(2)
    says(function() nn.zeros({2, 3, dtype = "f64"}, "f32") end, "zeros: the list has a field 'dtype'", "not both")
    says(function() nn.cat({w, w, dim = 1}, 1) end, "cat: the list has a field 'dim'")
    says(function() nn.ones(2, 3):sum({1, keepdim = true}, true) end, "sum: the list has a field 'keepdim'")
    says(function() nn.optim.SGD({w, lr = 1}, {lr = 1}) end, "SGD: a table is a list or names options, not both")
    says(function() nn.utils.clip_grad_norm_({w, max_norm = 1}, 1) end, "clip_grad_norm_: a table is a list or names")
    says(function() nn.Sequential({nn.ReLU(), last = nn.Tanh()}) end, "Sequential: a table is a list or names options")
    says(function() nn.ModuleList({last = nn.Tanh()}) end, "ModuleList: argument 1 must be a list of modules")
  end)

  it("take sizes that are whole floats, options by position and nil for defaults", function()
    assert.equal(3, nn.Linear(3.0, 4).in_features)
    assert.is_nil(nn.Linear(3, 4, false).bias)
    assert.is_nil(nn.Embedding(3, 4, false).padding_idx) -- false is torch's None
    assert.equal(20.0, nn.Softplus(nil, nil).threshold)
    assert.equal(5, nn.Softplus(2, {threshold = 5}).threshold)
    assert.is_truthy(nn.Linear(3, 4, {}).bias)
  end)

  it("tell a class from a module", function()
    says(function() nn.Sequential(nn.Linear(2, 2), nn.ReLU) end, "argument 2 must be a module, got the class ReLU",
      "nn.ReLU(...)")
    says(function() nn.Sequential(3) end, "argument 1 must be a module, got 3")
  end)
end)

describe("calls", function()
  local Block = nn.Module:subclass "Block"
  function Block:init(n) self.inner = {nn.Linear(n, n), nn.Linear(n + 1, n)} end
  function Block:forward(x) return self.inner[2](self.inner[1](x)) end

  it("say where in the model an op failed", function()
    local net = nn.Sequential(nn.Linear(4, 3), Block(3))
    says(function() local y = net(nn.ones(2, 4)) return y end, "1.inner.1 (Linear): linear: ")
    says(function() local y = net[2](nn.ones(2, 3)) return y end, "inner.1 (Linear): linear: ")
    says(function() local y = net[1](nn.ones(2, 5)) return y end, "Linear: linear: ")
  end)

  it("have the line of the caller", function()
    local net = nn.Linear(4, 3)
    local line = debug.getinfo(1, "l").currentline + 1
    local _, message = pcall(function() local y = net(nn.ones(2, 5)) return y end)
    assert.is_truthy(message:find("module_errors_spec.lua:" .. line .. ": ", 1, true), message)
  end)

  it("refuse surplus inputs, unless they are nil", function()
    local net, x = nn.Sequential(nn.Linear(4, 3)), nn.ones(2, 4)
    says(function() local y = net(x, {x}) return y end, "Sequential: takes at most 1 input, got 2", "parentheses")
    says(function() local y = net[1](x, nil, 5) return y end, "takes at most 1 input, got 3")
    assert.equal(3, net(x, nil, nil):size(2))
    local Free = nn.Module:subclass "Free"
    function Free:forward(...) return select("#", ...), self end
    assert.equal(3, (Free()(1, nil, 3)))
  end)

  it("need a forward function", function()
    local Empty = nn.Module:subclass "Empty"
    says(function() local y = Empty()(1) return y end, "Empty has no forward function")
    says(function() Empty(3) end, "Empty: takes no arguments")
  end)

  it("leave other errors as they are", function()
    local Broken = nn.Module:subclass "Broken"
    function Broken:forward() error({code = self.training}) end
    local ok, value = pcall(Broken())
    assert.is_false(ok)
    assert.is_true(value.code)
  end)
end)

describe("modules", function()
  it("keep their methods", function()
    local net = nn.Linear(1, 1)
    for _, name in ipairs {"train", "forward", "parameters", "to"} do
      says(function() net[name] = true end, ("Linear: '%s' is a method and cannot be a field"):format(name))
    end
    net.name = "free"
  end)

  it("say what does not fit in a state, and change nothing", function()
    local net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    local before = net:state_dict {copy = true}
    local state = net:state_dict {copy = true}
    state["0.weight"]:fill_(9)
    state["0.bias"], state["1.weight"], state.extra = nil, nn.ones(2, 2), nn.ones(1)
    says(function() net:load_state_dict(state) end, "missing: '0.bias'", "unexpected: 'extra'",
      "'1.weight' is 2x2 in the state, but 1x3 in the module")
    says(function() net:load_state_dict({["0.weight"] = 3}, {strict = false}) end, "'0.weight' is 3, not a tensor")
    says(function() net:load_state_dict(5) end, "state must be a table, got 5")
    for name, value in pairs(before) do assert.is_true(value:equal(net:state_dict()[name])) end
  end)

  it("check what they are told", function()
    local net = nn.Linear(1, 1)
    says(function() net:to "i64" end, '"f32" or "f64"', 'the string "i64"')
    says(function() net:register_buffer("b", 3) end, "'b' must be a tensor, got 3")
    says(function() net:summary() end, "the shape of an input is missing")
    says(function() net:state_dict {coyp = true} end, "did you mean 'copy'?")
    says(function() nn.Module:subclass() end, "name must be a string, got nil")
  end)
end)

describe("optimizers", function()
  it("check their parameters and options", function()
    local net = nn.Linear(2, 1)
    local SGD, Adam = nn.optim.SGD, nn.optim.Adam
    says(function() SGD(net:parameters(), {lr = 0.1, momentun = 0.9}) end, "SGD: there is no option 'momentun'",
      "did you mean 'momentum'?")
    says(function() SGD(net.weight) end, "params must be a list of tensors", "got a tensor")
    says(function() SGD(net) end, "params must be a list of tensors", "got a Linear; pass net:parameters()")
    says(function() SGD() end, "params is missing")
    says(function() SGD {} end, "params")
    says(function() SGD({3}) end, "parameter 1 must be a tensor, got 3")
    says(function() SGD({net.weight, net.weight}) end, "parameter 2 is given twice")
    says(function() SGD({net.weight * 2}) end, "parameter 1 is the result of an op")
    says(function() SGD({nn.ones(2, {dtype = "i64"})}) end, "parameter 1 is i64")
    says(function() SGD(net:parameters(), {lr = -1}) end, "SGD: lr must be 0 or more, got -1")
    says(function() SGD(net:parameters(), {nesterov = true}) end, "nesterov needs momentum")
    says(function() Adam(net:parameters(), {betas = {0.9, 1}}) end, "Adam: betas must be two numbers")
    says(function() Adam(net:parameters(), {betas = {0.9}}) end, "betas must be a number or a list of 2")
    says(function() Adam({{params = {net.weight}, lrr = 1}}) end, "did you mean 'lr'?")
    says(function() Adam({{params = {net.weight}}, {params = {net.weight}}}) end, "given twice")
    local opt = SGD(net:parameters())
    says(function() opt.param_groups[1].momentun = 1 end, "did you mean 'momentum'?")
    says(function() nn.optim.StepLR(net, 3) end, "StepLR: optimizer must be an optimizer, got a Linear")
    says(function() nn.optim.StepLR(opt, 0) end, "step_size must be 1 or more")
  end)

  it("say what does not fit in a state", function()
    local net = nn.Linear(2, 1)
    local a, b = nn.optim.Adam(net:parameters()), nn.optim.Adam({net.weight})
    net(nn.ones(1, 2)):sum():backward()
    a:step()
    says(function() b:load_state_dict(a:state_dict()) end, "is unexpected; the optimizer has 1 groups and 1 parameters")
    says(function() a:load_state_dict(nn.optim.SGD(net:parameters()):state_dict()) end,
      "'param_groups.0.betas' is missing")
  end)

  it("refuse a gradient of another shape without moving anything", function()
    local p = nn.Parameter(nn.ones(3))
    says(function() p.grad = nn.ones(2) end, "grad")
    assert.is_nil(p.grad)
  end)
end)

describe("data", function()
  it("datasets and loaders check what they get", function()
    local TensorDataset, Loader = nn.data.TensorDataset, nn.data.Loader
    says(function() TensorDataset() end, "at least one tensor")
    says(function() TensorDataset(nn.ones(3, 2), nn.ones(4)) end, "argument 2 has 4 rows, but the first has 3")
    says(function() TensorDataset(nn.ones(3), 5) end, "argument 2 must be a tensor", "got 5")
    local ds = TensorDataset(nn.ones(3, 2))
    says(function() ds:get(0) end, "position 0 is out of range; valid are 1 to 3")
    says(function() ds:get(4) end, "position 4 is out of range")
    says(function() Loader(nn.ones(3)) end, "dataset must have the methods size and get", "TensorDataset")
    says(function() Loader(ds, {batch_size = 0}) end, "batch_size must be 1 or more")
    says(function() Loader(ds, {batchsize = 2}) end, "did you mean 'batch_size'?")
    says(function() nn.data.Subset(ds, {1, 4}) end, "position 2 is 4, but valid are 1 to 3")
    says(function() nn.data.random_split(ds, {1, 1}) end, "add up to 2, but the dataset has 3")
    says(function() nn.data.fashion_mnist "/nowhere" end, "/nowhere", "train-images-idx3-ubyte")
    local uneven = {size = function() return 2 end, get = function(_, i) return nn.ones(i) end}
    says(function() Loader(uneven, {batch_size = 2}):batches()() end,
      "sample 2 of the batch is a tensor (2), but the first is a tensor (1)")
  end)

  it("gradcheck and compile check what they get", function()
    says(function() nn.gradcheck(3, {}) end, "f must be a function, got 3")
    says(function() nn.gradcheck(math.sin, {nn.tensor({1}, "i64")}) end, "no input is a tensor of f32 or f64")
    says(function() nn.compile(3) end, "compile: argument 1 must be a function, got 3")
    says(function() nn.detach(3) end, "detach: argument 1 must be a tensor or a table")
  end)
end)

describe("a beginner", function()
  it("who calls a method with a dot is told so", function()
    local net, net2 = nn.Linear(2, 2), nn.Sequential(nn.ReLU())
    local optimizer = nn.optim.SGD(net:parameters(), {lr = 0.1})
    local schedule = nn.optim.StepLR(optimizer, 1)
    local loader = nn.data.Loader(nn.data.TensorDataset(nn.ones(2)))
    says(function() net.parameters() end, "parameters: it is a method, call it with a colon, as in net:parameters()")
    says(function() net2.train() end, "net:train()")
    says(function() net2.eval() end, "net:eval()")
    says(function() net.state_dict() end, "net:state_dict()")
    says(function() optimizer.step() end, "step: it is a method, call it with a colon, as in optimizer:step()")
    says(function() optimizer.zero_grad() end, "optimizer:zero_grad()")
    says(function() schedule.step() end, "scheduler:step()")
    says(function() loader.batches() end, "loader:batches()")
  end)

  it("who calls a function with a colon is told so", function()
    says(function() nn:Linear(2, 3) end, "Linear: it is called with a dot, as in nn.Linear(...)")
    says(function() nn.optim:SGD(nn.Linear(2, 3):parameters()) end, "as in nn.optim.SGD(...)")
    says(function() nn:ones(2) end, "ones: functions are called with a dot, as in nn.ones()")
  end)

  it("who forgets a step is told which", function()
    local Silent = nn.Module:subclass "Silent"
    function Silent:forward(x) x = x * 2 end -- luacheck: ignore
    says(function() nn.Sequential(Silent(), nn.ReLU())(nn.ones(1)) end, "1 (ReLU): relu: input is nil")
    local Dotted = nn.Module:subclass "Dotted"
    function Dotted.forward(x) return x end
    says(function() Dotted()(nn.ones(1)) end, "Dotted: its forward function takes no input besides self", "colon")
    says(function() nn.optim.SGD(Silent():parameters()) end, "params is an empty list", "self.layer =")
    says(function() nn.ReLU(nn.ones(2)) end, "ReLU: argument 1 is a tensor (2), but ReLU makes a module",
      "nn.ReLU(...)(x)")
    says(function() nn.Linear(nn.ones(2), 3) end, "nn.Linear(...)(x)")
    says(function() nn.MSELoss(nn.ones(2), nn.ones(2)) end, "nn.MSELoss(...)(x)")
    says(function() nn.CrossEntropyLoss(nn.ones(2, 3), nn.ones(2)) end, "argument 2 is a tensor (2)")
    says(function() nn.CrossEntropyLoss()(nn.ones(2, 3), {0, 1}) end, "target is 0 at position 1, but the classes are "
      .. "1 to 3; labels that count from 0 become labels + 1")
    says(function() nn.zeros(nil, 3) end, "zeros: the first of size is nil")
  end)

  it("who takes one thing for another is told which is wanted", function()
    local net = nn.Linear(2, 2)
    local optimizer = nn.optim.SGD(net:parameters(), {lr = 0.1})
    says(function() optimizer.lr = 0.5 end, "SGD: lr belongs to the groups", "param_groups[1].lr")
    says(function() nn.utils.clip_grad_norm_(net, 1) end, "clip_grad_norm_", "got a Linear; pass net:parameters()")
    says(function() nn.save(os.tmpname(), net) end, "save:", "got a module", "net:state_dict()", "net:save(path)")
    says(function() for _ in nn.data.Loader(nn.data.TensorDataset(nn.ones(2))) do print() end end, "loader:batches()")
    says(function() net:apply(3) end, "apply: f must be a function", "got 3")
    says(function() nn.optim.SGD(net:parameters(), {lr = 0 / 0}) end, "SGD: lr must be 0 or more")
  end)
end)

describe("datasets that give what no batch is made of", function()
  local function first(dataset) return function() nn.data.Loader(dataset, {batch_size = 2}):batches()() end end

  it("are named", function()
    says(first {size = function() return 2 end, get = function() end}, "get(1) gives nothing")
    says(first {size = function() return 2 end, get = function() return nil end}, "get(1) gives nil")
    says(first {size = function() return "2" end, get = print}, "size() must give an integer", 'the string "2"')
    says(first {size = function() return 2 end, get = function(_, i) return i == 1 and {x = 1} or {y = 1} end},
      "sample 2 of the batch has no 'x'")
  end)
end)

describe("arguments that nobody wants", function()
  it("are errors, of whatever is called", function()
    local x = nn.ones(2, 3)
    local net = nn.Sequential(nn.Linear(3, 2))
    local optimizer = nn.optim.SGD(net:parameters(), {lr = 0.1})
    local schedule, dataset = nn.optim.StepLR(optimizer, 1), nn.data.TensorDataset(x)
    local loader = nn.data.Loader(dataset)
    local function two() return x, x end
    for name, f in pairs {
      detach = function() nn.detach(two()) end, item = function() nn.ones(1):item(1) end,
      totable = function() x:totable(1) end, equal = function() x:equal(two()) end,
      is_tensor = function() nn.is_tensor(two()) end, dim = function() x:dim(1) end,
      numel = function() x:numel(1) end, stride = function() x:stride(1) end, free = function() x:free(1) end,
      requires_grad_ = function() x:requires_grad_(true, 1) end, manual_seed = function() nn.manual_seed(1, 2) end,
      clock = function() nn.clock(1) end, memory = function() nn.memory("trim", 1) end,
      detect_anomaly = function() nn.detect_anomaly(false, 1) end, scalar = function() nn.scalar(1, 2) end,
      compile = function() nn.compile(print, true, true, print) end, parameters = function() net:parameters(1) end,
      eval = function() net:eval(1) end, train = function() net:train(true, 1) end,
      state_dict = function() net:state_dict({}, 1) end,
      load_state_dict = function() net:load_state_dict({}, {}, 1) end, to = function() net:to("f32", 1) end,
      clone = function() net:clone(1) end, append = function() net:append(net, 1) end,
      register_buffer = function() net:register_buffer("x", x, true, 1) end,
      Parameter = function() nn.Parameter(x, true, 1) end,
      step = function() optimizer:step(nil, 1) end, zero_grad = function() optimizer:zero_grad({}, 1) end,
      ["step: takes no"] = function() schedule:step(1) end, batches = function() loader:batches(1) end,
      get = function() dataset:get(1, 2) end, digits = function() nn.data.digits(1) end,
      subclass = function() nn.Module:subclass("A", 1) end,
      vector_to_parameters = function() nn.utils.vector_to_parameters(nn.ones(8), net:parameters(), 1) end,
    } do says(f, name, ": takes ", ", got ") end
    assert.equal(6, x:numel(nil))
    says(function() net:train(1) end, "train: mode must be true or false, got 1")
    says(function() net:requires_grad_("no") end, 'requires_grad_: on must be true or false, got the string "no"')
  end)
end)
