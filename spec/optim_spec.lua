-- Optimizers, schedules and clipping beyond their numbers, which golden_spec.lua compares with PyTorch's.
local helpers = require "spec.helpers"
local nn = helpers.nn

local kinds = {
  {"SGD", {lr = 0.1}}, {"SGD", {lr = 0.1, momentum = 0.9, nesterov = true}}, {"Adam", {lr = 0.05, amsgrad = true}},
  {"AdamW", {lr = 0.05}}, {"RMSprop", {lr = 0.01, momentum = 0.5, centered = true}}, {"Adagrad", {lr = 0.1}},
}

local function text(kind)
  local parts = {}
  for name, value in pairs(kind[2]) do parts[#parts + 1] = name .. "=" .. tostring(value) end
  table.sort(parts)
  return ("%s(%s)"):format(kind[1], table.concat(parts, ", "))
end

-- A small network with fixed data, and its training by an optimizer.
local function training(kind, dtype)
  nn.manual_seed(1)
  local net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)):to(dtype or "f32")
  local x, y = nn.randn(8, 3, {dtype = dtype or "f32"}), nn.randn(8, 2, {dtype = dtype or "f32"})
  local opt, loss = nn.optim[kind[1]](net:parameters(), kind[2]), nn.MSELoss()
  return net, opt, function()
    opt:zero_grad()
    local l = loss(net(x), y)
    l:backward()
    opt:step()
    return l:item()
  end
end

local function leaf(values, options)
  return nn.tensor(values, {dtype = options and options.dtype or "f64", requires_grad = true})
end

for _, kind in ipairs(kinds) do
  describe(text(kind), function()
    it("brings the loss down, in both types", function()
      for _, dtype in ipairs {"f32", "f64"} do
        local _, _, step = training(kind, dtype)
        local first, last = step(), nil
        for _ = 1, 100 do last = step() end
        assert.is_true(last < 0.7 * first, ("%s: %g after %g"):format(dtype, last, first))
      end
    end)

    it("goes on with the same bits from its state and its network's", function()
      local net, opt, step = training(kind)
      for _ = 1, 5 do step() end
      local state, values = opt:state_dict {copy = true}, net:state_dict {copy = true}
      local wanted = {}
      for i = 1, 5 do wanted[i] = step() end
      local net2, opt2, step2 = training(kind)
      net2:load_state_dict(values)
      opt2:load_state_dict(state)
      for i = 1, 5 do assert.equal(wanted[i], step2()) end
      -- and after steps of its own
      net2:load_state_dict(values)
      opt2:load_state_dict(state)
      for i = 1, 5 do assert.equal(wanted[i], step2()) end
    end)

    it("keeps its state in a file", function()
      local path = os.tmpname()
      local net, opt, step = training(kind)
      for _ = 1, 3 do step() end
      nn.save(path, {opt = opt:state_dict(), net = net:state_dict()})
      local loaded, parts = nn.load(path), {opt = {}, net = {}}
      os.remove(path)
      for name, value in pairs(loaded) do parts[name:match "^%a+"][name:match "^%a+%.(.*)"] = value end
      local wanted = step()
      local net2, opt2, step2 = training(kind)
      net2:load_state_dict(parts.net)
      opt2:load_state_dict(parts.opt)
      assert.equal(wanted, step2())
    end)

    it("moves transposed parameters by transposed and expanded gradients alike", function()
      nn.manual_seed(2)
      local values, gradient = nn.randn(4, 3, {dtype = "f64"}), nn.randn(4, 3, {dtype = "f64"})
      local plain = nn.Parameter(values:clone())
      local turned = nn.Parameter(values:t():contiguous():t())
      assert.is_false(turned:is_contiguous())
      local same = nn.Parameter(values:clone())
      local opt = nn.optim[kind[1]]({plain, turned, same}, kind[2])
      for _ = 1, 3 do
        plain.grad, turned.grad = gradient:clone(), gradient:t():contiguous():t()
        same.grad = nn.ones(1, 1, {dtype = "f64"}):expand(4, 3)
        opt:step()
      end
      assert.is_true(plain:equal(turned))
      assert.is_false(same:equal(plain))
    end)

    it("leaves parameters without a gradient alone, and counts their steps by themselves", function()
      local a, b = leaf {1, 2}, leaf {1, 2}
      local opt = nn.optim[kind[1]]({a, b}, kind[2])
      opt:step() -- no gradient at all
      a.grad = nn.ones(2, {dtype = "f64"})
      opt:step()
      assert.same({1, 2}, b:totable())
      local first = a:totable()
      a.grad, b.grad = nil, nn.ones(2, {dtype = "f64"})
      opt:step()
      assert.same(first, a:totable())
      assert.same(first, b:totable()) -- b's first step is as a's was
    end)

    it("maximizes when told so", function()
      local options = {maximize = true}
      for name, value in pairs(kind[2]) do options[name] = value end
      local a, b = leaf {1, -2}, leaf {1, -2}
      local down, up = nn.optim[kind[1]]({a}, kind[2]), nn.optim[kind[1]]({b}, options)
      for _ = 1, 3 do
        a.grad, b.grad = nn.tensor({1, -3}, "f64"), nn.tensor({-1, 3}, "f64")
        down:step()
        up:step()
      end
      assert.is_true(a:equal(b))
    end)
  end)
end

describe("an optimizer", function()
  it("gives large parameters the same bits with one thread and with two", function()
    local program = [[
      local nn = require "nnlua"
      nn.manual_seed(5)
      local net = nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 100))
      local opt = nn.optim.Adam(net:parameters(), {weight_decay = 0.1})
      for _, p in ipairs(net:parameters()) do p.grad = nn.randn(p.shape) end
      nn.utils.clip_grad_norm_(net:parameters(), 0.5)
      for _ = 1, 3 do opt:step() end
      local sum = nn.utils.parameters_to_vector(net:parameters()):detach():to("f64")
      print(("%a %a"):format(sum:sum():item(), (sum * nn.arange(1, sum:numel()):to("f64")):sum():item()))
    ]]
    local _, one = helpers.nnlua {"--threads", "1", "-e", program}
    local _, two = helpers.nnlua {"--threads", "2", "-e", program}
    assert.is_truthy(one:find "0x")
    assert.equal(one, two)
  end)

  it("takes groups with options of their own, and more of them later", function()
    local a, b, c = leaf {1}, leaf {1}, leaf {1}
    local opt = nn.optim.SGD({{params = {a}, lr = 0.5}, {params = {b}}}, {lr = 0.1})
    opt:add_param_group {params = {c}, lr = 1}
    for _, p in ipairs {a, b, c} do p.grad = nn.ones(1, {dtype = "f64"}) end
    opt:step()
    assert.same({0.5, 0.9, 0}, {a:item(), b:item(), c:item()})
    opt.param_groups[2].lr = 0.4
    opt:step()
    assert.equal(0.5, b:item())
    assert.equal(0.5, opt.param_groups[1].lr)
  end)

  it("does not change its caller's lists", function()
    local list, betas = {leaf {1}}, {0.5, 0.5}
    local opt = nn.optim.Adam(list, {betas = betas})
    opt.param_groups[1].betas[1] = 0.7
    list[1] = nil
    assert.equal(0.5, betas[1])
    assert.equal(1, #opt.param_groups[1].params)
    assert.equal(0.9, nn.optim.Adam({leaf {1}}).param_groups[1].betas[1])
  end)

  it("forgets gradients, or sets them to 0", function()
    local p = leaf {1, 2}
    local opt = nn.optim.SGD({p})
    p.grad = nn.ones(2, {dtype = "f64"})
    opt:zero_grad {set_to_none = false}
    assert.same({0, 0}, p.grad:totable())
    opt:zero_grad()
    assert.is_nil(p.grad)
  end)

  it("computes the loss anew by a closure", function()
    local p = leaf {3}
    local opt = nn.optim.SGD({p}, {lr = 0.1})
    local loss = opt:step(function()
      opt:zero_grad()
      local l = (p * p):sum()
      l:backward()
      return l
    end)
    assert.equal(9, loss:item())
    assert.is_true(math.abs(p:item() - 2.4) < 1e-15)
  end)

  it("names its state as torch nests it, live or copied", function()
    local net, opt, step = training {"Adam", {lr = 0.05}}
    assert.is_nil(opt:state_dict()["state.0.exp_avg"])
    step()
    local live, snapshot = opt:state_dict(), opt:state_dict {copy = true}
    assert.equal(1, live["state.3.step"]:item())
    assert.equal(0.05, live["param_groups.0.lr"]:item())
    assert.same({0.9, 0.999}, live["param_groups.0.betas"]:totable())
    assert.is_true(live["state.1.exp_avg_sq"].shape == net[1].bias.shape)
    step()
    assert.equal(2, live["state.3.step"]:item())
    assert.equal(1, snapshot["state.3.step"]:item())
    assert.is_false(live["state.0.exp_avg"]:equal(snapshot["state.0.exp_avg"]))
  end)

  it("takes over the rates of a state, and leaves everything as it is when the state does not fit", function()
    local _, opt, step = training {"Adam", {lr = 0.05}}
    step()
    local state = opt:state_dict {copy = true}
    opt.param_groups[1].lr = 1
    state["state.2.exp_avg"] = nn.ones(7)
    local message = helpers.error_of(opt.load_state_dict, opt, state)
    assert.is_truthy(message:find("'state.2.exp_avg' is 7, but parameter 3 is 2x5", 1, true), message)
    assert.equal(1, opt.param_groups[1].lr)
    state["state.2.exp_avg"] = nn.zeros(2, 5)
    opt:load_state_dict(state)
    assert.equal(0.05, opt.param_groups[1].lr)
  end)

  it("makes a graph of before the step unusable", function()
    local net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    local opt = nn.optim.SGD(net:parameters(), {lr = 0.1})
    local out = net(nn.ones(1, 2)):sum()
    out:backward {retain_graph = true}
    opt:step()
    assert.is_truthy(helpers.error_of(out.backward, out))
  end)

  -- 0.9 times four of the smallest numbers rounds to four of them: such a moment would stay, and slow every step down.
  it("leaves no moment subnormal", function()
    local least = 2 ^ -126
    for name, state in pairs {SGD = "momentum_buffer", Adam = "exp_avg", RMSprop = "momentum_buffer"} do
      local x = nn.ones(3, {requires_grad = true})
      local opt = nn.optim[name]({x}, {lr = 1e-3, momentum = name ~= "Adam" and 0.9 or nil})
      x.grad = nn.tensor {1, 1e-3, -1}
      opt:step()
      x.grad = nn.zeros(3)
      for _ = 1, 1200 do opt:step() end
      for _, moment in ipairs(opt:state_dict()["state.0." .. state]:abs():totable()) do
        assert.is_true(moment == 0 or moment >= least and moment <= 10 * least, name .. ": " .. moment)
      end
    end
  end)

  it("keeps no gradient alive", function()
    local p = nn.Parameter(nn.zeros(1000))
    local opt = nn.optim.Adam({p})
    p.grad = nn.ones(1000)
    opt:step()
    opt:zero_grad()
    collectgarbage()
    local before = nn.memory().tensors
    p.grad = nn.ones(1000)
    opt:step()
    opt:zero_grad()
    collectgarbage()
    assert.equal(before, nn.memory().tensors)
  end)
end)

describe("a schedule", function()
  local function opt_with(rates)
    local groups = {}
    for i, lr in ipairs(rates) do groups[i] = {params = {leaf {1}}, lr = lr} end
    return nn.optim.SGD(groups)
  end

  it("moves the rate of every group", function()
    local opt = opt_with {1, 0.1}
    local schedule = nn.optim.StepLR(opt, 2, 0.5)
    for _ = 1, 2 do schedule:step() end
    assert.same({0.5, 0.05}, schedule:get_last_lr())
    schedule:step()
    assert.same({0.5, 0.05}, schedule:get_last_lr())
  end)

  it("goes down to eta_min in T_max steps", function()
    local opt = opt_with {1}
    local schedule = nn.optim.CosineAnnealingLR(opt, 50, {eta_min = 0.2})
    for t = 1, 50 do
      schedule:step()
      local want = 0.2 + 0.8 * (1 + math.cos(math.pi * t / 50)) / 2
      assert.is_true(math.abs(opt.param_groups[1].lr - want) < 1e-12)
    end
  end)

  it("goes on from its state and the optimizer's", function()
    local a = opt_with {1, 0.3}
    local schedule = nn.optim.CosineAnnealingLR(a, 10)
    for _ = 1, 4 do schedule:step() end
    local b = opt_with {7, 7}
    local other = nn.optim.CosineAnnealingLR(b, 10)
    b:load_state_dict(a:state_dict())
    other:load_state_dict(schedule:state_dict())
    schedule:step()
    other:step()
    assert.same(schedule:get_last_lr(), other:get_last_lr())
    assert.equal(5, other.last_epoch)
  end)

  it("continues from the rate that stands there", function()
    local opt = opt_with {1}
    local schedule = nn.optim.StepLR(opt, 1, 0.5)
    opt.param_groups[1].lr = 8
    schedule:step()
    assert.equal(4, opt.param_groups[1].lr)
  end)
end)

describe("utils", function()
  it("clip_grad_norm_ tells a norm that is no number", function()
    local p = leaf {1, 2}
    p.grad = nn.tensor({math.huge, 1}, "f64")
    local message = helpers.error_of(nn.utils.clip_grad_norm_, {p}, 1, {error_if_nonfinite = true})
    assert.equal("clip_grad_norm: the norm of the gradients is inf", message)
    assert.equal(1, p.grad[2]:item())
  end)

  it("clip_grad_norm_ takes expanded gradients, single tensors and parameters without any", function()
    local p, q = leaf {{1, 2}, {3, 4}}, leaf {1}
    p:sum():backward() -- the gradient is an expanded 1
    local total = nn.utils.clip_grad_norm_({p, q}, 1)
    assert.equal(2, total:item())
    assert.is_true(math.abs(p.grad:pow(2):sum():item() - 1) < 1e-5)
    assert.equal(0, nn.utils.clip_grad_norm_(q, 1):item())
  end)

  it("clip_grad_norm_ agrees with the formula for any norm", function()
    local p, q = leaf {3, -4}, leaf {12}
    for _, case in ipairs {{1, 19}, {2, 13}, {3, (27 + 64 + 1728) ^ (1 / 3)}, {math.huge, 12}} do
      p.grad, q.grad = nn.tensor({3, -4}, "f64"), nn.tensor({12}, "f64")
      local total = nn.utils.clip_grad_norm_({p, q}, 1, case[1]):item()
      assert.is_true(math.abs(total - case[2]) < 1e-12 * case[2])
      assert.is_true(math.abs(q.grad:item() - 12 / (case[2] + 1e-6)) < 1e-12)
    end
  end)

  it("clip_grad_value_ cuts every element", function()
    local p = leaf {1, 2, 3}
    p.grad = nn.tensor({-5, 0.25, 5}, "f64")
    nn.utils.clip_grad_value_({p}, 0.5)
    assert.same({-0.5, 0.25, 0.5}, p.grad:totable())
  end)

  it("parameters go into a vector and back", function()
    local net = nn.Linear(2, 3)
    local vector = nn.utils.parameters_to_vector(net:parameters())
    assert.equal(9, vector:numel())
    assert.equal(net.bias[3]:item(), vector[9]:item())
    nn.utils.vector_to_parameters(nn.arange(1, 9):to "f32", net:parameters())
    assert.same({{1, 2}, {3, 4}, {5, 6}}, net.weight:totable())
    assert.same({7, 8, 9}, net.bias:totable())
    assert.is_truthy(helpers.error_of(nn.utils.vector_to_parameters, nn.ones(8), net:parameters())
      :find("vector is 8, but the parameters have 9 elements", 1, true))
  end)
end)
