-- Every op, module and optimizer against results of PyTorch: golden/generate.py makes the data, README.md
-- says how a case is read.
local helpers = require "spec.helpers"
local nn = helpers.nn

-- Errors are allowed up to this many eps times the case's measure.
local allowed = {f32 = 4, f64 = 4} -- 2 were needed with AVX-512

---------------------------------------------------------------- reading

local function read(family)
  local base = helpers.folder .. "golden/" .. family
  local tensors
  local data = {cases = dofile(base .. ".lua")}
  function data.tensor(name)
    tensors = tensors or nn.load(base .. ".safetensors")
    return assert(tensors[name], name)
  end
  return data
end

local function text(v)
  if type(v) ~= "table" then return type(v) == "string" and ("%q"):format(v) or tostring(v) end
  local parts = {}
  for _, x in ipairs(v) do parts[#parts + 1] = text(x) end
  local names = {}
  for k in pairs(v) do
    if type(k) == "string" then names[#names + 1] = k end
  end
  table.sort(names)
  for _, k in ipairs(names) do parts[#parts + 1] = k .. " = " .. text(v[k]) end
  return "{" .. table.concat(parts, ", ") .. "}"
end

local layouts = {t = "transposed", s = "stepped", c = "channels last"}

-- "3x4 transposed, 2": the arguments of a case, for its name.
local function arguments_text(case, data)
  local function one(a)
    if type(a) ~= "table" then return text(a) end
    if a.list then
      local parts = {}
      for i, x in ipairs(a.list) do parts[i] = one(x) end
      return "{" .. table.concat(parts, ", ") .. "}"
    end
    if not a.t then return text(a) end
    local t = data.tensor(a.t)
    local shape = helpers.shape_text(a.expand or t.shape)
    return (case.typed and t.dtype .. " " or "") .. shape .. (a.layout and " " .. layouts[a.layout] or "")
      .. (a.expand and " expanded" or "")
  end
  local parts = {}
  for i = 1, case.args.n do parts[i] = one(case.args[i]) end
  for _, a in ipairs(case.inputs or {}) do parts[#parts + 1] = one(a) end
  local names = {}
  for k in pairs(case.options or {}) do names[#names + 1] = k end
  table.sort(names)
  for _, k in ipairs(names) do parts[#parts + 1] = k .. "=" .. one(case.options[k]) end
  return table.concat(parts, ", ") .. (case.note and " (" .. case.note .. ")" or "")
end

---------------------------------------------------------------- one case

-- Turns the case's arguments into values; tensors with gradients are noted in `leaves`.
local function prepare(case, data, dtype, leaves)
  local function value(a)
    if type(a) ~= "table" then return a end
    if a.list then
      local all = {}
      for i, x in ipairs(a.list) do all[i] = value(x) end
      return all
    end
    if not a.t then
      local copy = {}
      for k, v in pairs(a) do copy[k] = v end
      return copy
    end
    local x = data.tensor(a.t)
    x = x:clone()
    if dtype and helpers.is_float(x) then x = x:to(dtype) end
    if a.expand then x = x:expand(a.expand):detach() end
    x = helpers.layout(x, a.layout)
    if a.grad then
      x.requires_grad = true
      leaves[#leaves + 1] = {x = x, item = a}
    end
    return x
  end
  local arguments = {n = case.args.n}
  for i = 1, case.args.n do arguments[i] = value(case.args[i]) end
  local options
  if case.options then
    options = {}
    for k, v in pairs(case.options) do options[k] = value(v) end
    arguments.n = arguments.n + 1
    arguments[arguments.n] = options
  end
  return arguments
end

local function check_results(case, data, outs, dtype)
  assert(#outs == #case.outputs, ("%d results, wanted %d"):format(#outs, #case.outputs))
  for k, wanted in ipairs(case.outputs) do
    local t = data.tensor(wanted.t)
    local own = dtype and case.options and case.options.dtype -- the result's type whatever the inputs'
    local want_type = own or dtype and helpers.is_float(t) and dtype or t.dtype
    assert(outs[k].dtype == want_type, ("result %d is %s, wanted %s"):format(k, outs[k].dtype, want_type))
    helpers.assert_close("result " .. k, outs[k], t, {
      c = allowed[outs[k].dtype], scale = not case.rel and wanted.scale or nil, floor = case.floor,
    })
  end
end

local function check_gradients(data, outs, leaves, dtype)
  local total
  for k, out in ipairs(outs) do
    if helpers.is_float(out) and out.requires_grad then
      local part = (out * helpers.weights(out, k - 1)):sum()
      total = total and total + part or part
    end
  end
  if #leaves == 0 then return end
  assert(total, "no result requires a gradient")
  total:backward()
  for i, leaf in ipairs(leaves) do
    local item = leaf.item
    local got = leaf.x.grad
    if not got and leaf.x:numel() == 0 then got = leaf.x:detach() end
    assert(got, "input " .. i .. " received no gradient")
    assert(got.dtype == dtype, "gradient is " .. got.dtype)
    helpers.assert_close("gradient " .. i, got, data.tensor(item.grad), {c = allowed[dtype], scale = item.scale or 1})
  end
end

local run = {}

function run.op(case, data, dtype)
  local f = helpers.op(case.op)
  if not f then error("there is no op " .. case.op, 0) end
  local leaves = {}
  local arguments = prepare(case, data, dtype, leaves)
  local outs = {f(table.unpack(arguments, 1, arguments.n))}
  check_results(case, data, outs, dtype)
  if dtype then check_gradients(data, outs, leaves, dtype) end
end

-- The same call as a method of the first argument.
function run.method(case, data, dtype)
  local leaves = {}
  local arguments = prepare(case, data, dtype, leaves)
  local x = arguments[1]
  check_results(case, data, {x[case.op](table.unpack(arguments, 1, arguments.n))}, dtype)
end

function run.expression(case, data, dtype)
  local leaves = {}
  local arguments = prepare(case, data, dtype, leaves)
  local outs = {assert(load("local x, y = ... return " .. case.expression))(arguments[1], arguments[2])}
  check_results(case, data, outs, dtype)
  if dtype then check_gradients(data, outs, leaves, dtype) end
end

function run.subscript(case, data, dtype)
  local leaves = {}
  local arguments = prepare(case, data, dtype, leaves)
  local subscript = assert(load("local t = ... return " .. case.subscript))(arguments[2])
  local outs = {arguments[1][subscript]}
  check_results(case, data, outs, dtype)
  check_gradients(data, outs, leaves, dtype)
end

function run.assign(case, data, dtype)
  local leaves = {}
  local arguments = prepare(case, data, dtype, leaves)
  local position = arguments.n == 3 and arguments[2] or nil
  local subscript = assert(load("local t = ... return " .. case.assign))(position)
  local x = arguments[1]:clone()
  x[subscript] = arguments[arguments.n]
  local outs = {x}
  check_results(case, data, outs, dtype)
  check_gradients(data, outs, leaves, dtype)
end

local function load_state(net, state, data, dtype)
  net:to(dtype)
  local tensors = {}
  for name, key in pairs(state) do tensors[name] = data.tensor(key):to(dtype) end
  net:load_state_dict(tensors)
end

-- Results with the lists among them, as recurrent states are, opened.
local function flat(results)
  local all = {}
  for _, result in ipairs(results) do
    for _, x in ipairs(nn.is_tensor(result) and {result} or result) do all[#all + 1] = x end
  end
  return all
end

function run.module(case, data, dtype)
  local make = rawget(nn, case.module) or nn[case.module]
  if not make then error("there is no module " .. case.module, 0) end
  local leaves = {}
  local arguments = prepare(case, data, dtype, {})
  local net = make(table.unpack(arguments, 1, arguments.n))
  if case.state then load_state(net, case.state, data, dtype) end
  if case.mode == "eval" then net:eval() end
  local given = {args = {n = #case.inputs, table.unpack(case.inputs)}, options = case.call}
  local inputs = prepare(given, data, dtype, leaves)
  local outs = flat {net(table.unpack(inputs, 1, inputs.n))}
  check_results(case, data, outs, dtype)
  if not (#leaves > 0 or case.grads and next(case.grads)) then return end
  for name, p in net:named_parameters() do
    leaves[#leaves + 1] = {x = p, item = {grad = case.grads[name].t, scale = case.grads[name].scale}}
  end
  check_gradients(data, outs, leaves, dtype)
end

---------------------------------------------------------------- the specs

local families = {"elementwise", "activation", "binary", "reduce", "matmul", "shape", "index", "loss", "image",
  "convolution", "transformer"}
-- functions of nn.functional, as in torch
local without_methods = {loss = true, activation = true, image = true, convolution = true, transformer = true}

for _, family in ipairs(families) do
  describe("golden results of PyTorch, " .. family .. ":", function()
    local data = read(family)
    for _, case in ipairs(data.cases) do
      if case.module then goto continue end
      local kind = case.op and "op" or case.expression and "expression" or case.subscript and "subscript" or "assign"
      local name = case.op or case.expression or kind == "subscript" and "x[" .. case.subscript .. "]"
        or "x[" .. case.assign .. "] = v"
      it(name .. " agrees on " .. arguments_text(case, data), function()
        if case.typed then
          run[kind](case, data, nil)
        else
          run[kind](case, data, "f64")
          run[kind](case, data, "f32")
        end
      end)
      ::continue::
    end
  end)
end

-- Ops whose first argument is a tensor are methods, too.
describe("golden results of PyTorch, methods:", function()
  local seen = {}
  for _, family in ipairs(families) do
    local data = read(family)
    for _, case in ipairs(data.cases) do
      local first = case.args and case.args[1]
      local fit = case.op and type(first) == "table" and first.t and not first.layout
      if fit and not without_methods[family] and not seen[case.op]
        and not ({where = 1, embedding = 1, linear = 1, bilinear = 1, one_hot = 1, zeros_like = 1, ones_like = 1,
          full_like = 1})[case.op] then
        seen[case.op] = true
        it("x:" .. case.op .. "() agrees on " .. arguments_text(case, data), function()
          run.method(case, data, not case.typed and "f64" or nil)
        end)
      end
    end
  end
end)

describe("golden results of PyTorch, modules:", function()
  for _, family in ipairs {"module", "image", "convolution", "recurrent", "transformer"} do
    local data = read(family)
    for _, case in ipairs(data.cases) do
      if case.module then
        local mode = case.mode and ", " .. case.mode or ""
        it(case.module .. " agrees on " .. arguments_text(case, data) .. mode, function()
          run.module(case, data, "f64")
          run.module(case, data, "f32")
        end)
      end
    end
  end

  local data = read "module"

  for _, case in ipairs(data.cases) do
    if case.train then
      it(("a small network with %s learns the same by %s"):format(case.train, case.optimizer), function()
        for _, dtype in ipairs {"f64", "f32"} do
          local net = nn.Sequential(nn.Linear(6, 8), nn[case.train](), nn.Linear(8, 4))
          load_state(net, case.state, data, dtype)
          local x, y = data.tensor(case.x):to(dtype), data.tensor(case.y)
          local opt = nn.optim[case.optimizer](net:parameters(), case.options)
          local loss = nn.CrossEntropyLoss()
          -- ten steps carry the first step's rounding along: one step's measure for each
          local c = 20 * allowed[dtype] * helpers.eps[dtype]
          for step = 1, 10 do
            opt:zero_grad()
            local l = loss(net(x), y)
            l:backward()
            opt:step()
            local want = case.losses[step]
            local off = math.abs(l:item() - want)
            assert(off <= c * 4, ("%s: loss of step %d is %.17g, wanted %.17g"):format(dtype, step, l:item(), want))
          end
          for name, p in pairs(net:state_dict()) do
            helpers.assert_close(dtype .. " " .. name, p, data.tensor(case.final[name]),
              {c = 20 * allowed[dtype], scale = 4})
          end
        end
      end)
    end
  end
end)

describe("golden results of PyTorch, optimizers:", function()
  local data = read "optim"

  local function start(case, dtype)
    local params, given = {}, {}
    for i, key in ipairs(case.params) do
      params[i] = data.tensor(key):to(dtype):clone()
      params[i].requires_grad = true
      given[i] = data.tensor(case.given[i]):to(dtype)
    end
    return params, given
  end

  for _, case in ipairs(data.cases) do
    if case.optimizer then
      it(("%s takes the same 20 steps with %s%s"):format(case.optimizer, text(case.options),
        case.groups and " and two groups" or ""), function()
        for _, dtype in ipairs {"f64", "f32"} do
          local params, given = start(case, dtype)
          local what = params
          if case.groups then
            what = {}
            for i, group in ipairs(case.groups) do
              local own = {params = table.pack(table.unpack(params, group.first, group.last))}
              own.params.n = nil
              for k, v in pairs(group) do
                if k ~= "first" and k ~= "last" then own[k] = v end
              end
              what[i] = own
            end
          end
          local make = nn.optim[case.optimizer]
          local opt = next(case.options) and make(what, case.options) or make(what)
          for step = 1, 20 do
            for i, p in ipairs(params) do p.grad = given[i][step]:clone() end
            opt:step()
            for i, key in ipairs(case.after[step] or {}) do
              -- every step rounds once more
              helpers.assert_close(("%s, step %d, parameter %d"):format(dtype, step, i), params[i]:detach(),
                data.tensor(key), {c = 4 * step, scale = 4})
            end
          end
        end
      end)
    elseif case.schedule then
      it(("%s(%s) gives the same rates"):format(case.schedule, text(case.args):sub(2, -2)), function()
        local p = nn.zeros(1, {requires_grad = true})
        local opt = nn.optim.SGD({p}, {lr = case.lr})
        local schedule = nn.optim[case.schedule](opt, table.unpack(case.args, 1, case.args.n))
        for step, rate in ipairs(case.rates) do
          local got = opt.param_groups[1].lr
          assert(math.abs(got - rate) <= 1e-14, ("rate %d is %.17g, wanted %.17g"):format(step, got, rate))
          schedule:step()
        end
      end)
    else
      it(("clip_grad_norm_ cuts at %g in the %g-norm"):format(case.clip, case.p), function()
        for _, dtype in ipairs {"f64", "f32"} do
          local params, given = start(case, dtype)
          for i, p in ipairs(params) do p.grad = given[i][1]:clone() end
          local total = nn.utils.clip_grad_norm_(params, case.clip, case.p)
          if nn.is_tensor(total) then total = total:item() end
          assert(math.abs(total - case.total) <= 8 * helpers.eps[dtype] * case.total, "total " .. total)
          for i, p in ipairs(params) do
            local wanted = data.tensor(case.clipped[i])
            helpers.assert_close("gradient " .. i, p.grad, wanted, {c = allowed[dtype], scale = 2})
          end
        end
      end)
    end
  end
end)
