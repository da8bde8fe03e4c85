--- nn.gradcheck: gradients against finite differences.
local args = require "nnlua.args"
local docs = require "nnlua.docs"
local native = require "nnlua.native"

local raise = native.raise

-- Fixed weights, so that the checked function is a number: L = sum over all results of sum(result * weight).
local function weights(tensor, k)
  local list = {}
  for i = 0, tensor:numel() - 1 do list[i + 1] = (2 * ((7 * i + 3 * k) % 11) - 9) / 8 end
  if #list == 0 then return native.zeros_like(tensor) end
  return native.tensor(list, "f64"):reshape(tensor.shape)
end

local function is_float(value) return native.is_tensor(value) and (value.dtype == "f32" or value.dtype == "f64") end

local function total(...)
  local sum
  for k = 1, select("#", ...) do
    local result = (select(k, ...))
    if is_float(result) then
      local part = (result:to("f64") * weights(result, k - 1)):sum()
      sum = sum and sum + part or part
    end
  end
  if not sum then raise "gradcheck: the function returns no tensor of f32 or f64" end
  return sum
end

-- "(2, 3)" for element number i (from 0) of a shape.
local function place_text(shape, i)
  local place = {}
  for d = #shape, 1, -1 do
    place[d] = i % shape[d] + 1
    i = i // shape[d]
  end
  return "(" .. table.concat(place, ", ") .. ")"
end

-- Compares the gradient of value(inputs), a 0-d tensor, with central differences of it.
local function compare(value, inputs, checked, options, what)
  local result = value(table.unpack(inputs, 1, inputs.n))
  local leaves = {}
  for i, k in ipairs(checked) do leaves[i] = inputs[k] end
  local gradients = {}
  -- what no gradient can follow must be constant
  if result.requires_grad then gradients = {native.grad(result, leaves, {allow_unused = true})} end
  for i, k in ipairs(checked) do
    local shape, flat = inputs[k].shape, inputs[k]:detach():view(-1)
    local found = gradients[i] and gradients[i]:to("f64"):reshape(-1):totable()
    for e = 1, flat:numel() do
      local element = flat:select(1, e)
      local old = element:item()
      local function at(x)
        element:fill_(x)
        local ok, moved = pcall(value, table.unpack(inputs, 1, inputs.n))
        element:fill_(old)
        if not ok then error(moved, 0) end
        return moved:item()
      end
      local h = options.eps * math.max(1, math.abs(old))
      local up, down = old + h, old - h
      local wanted = (at(up) - at(down)) / (up - down)
      local got = found and found[e] or 0
      local allowed = options.tolerance * math.max(1, math.abs(wanted))
      if math.abs(got - wanted) > allowed or got ~= got or wanted ~= wanted then
        raise(("gradcheck: the %s with respect to input %d at %s is %.9g, but finite differences give %.9g "
          .. "(%.3g apart, %.3g allowed)"):format(what, k, place_text(shape, e - 1), got, wanted,
          math.abs(got - wanted), allowed))
      end
    end
  end
end

local signature = "f:function, inputs:any, order:int=1, eps:num=1e-06, tolerance:num=1e-05"
local read = args.reader("gradcheck", signature)

--- Compares f's gradients with central differences, in f64: true, or an error that says where they differ.  Inputs of
--- a floating type are checked; others are handed on.  {order = 2} checks the gradients' gradients, too.
---@param ... any f, {inputs}, {order =, eps =, tolerance =}
---@return true
local function gradcheck(...)
  local f, given, order, eps, tolerance = read(...)
  if native.is_tensor(given) then given = {given} end
  if type(given) ~= "table" then
    raise("gradcheck: inputs must be a list of tensors, got " .. args.describe(given))
  end
  if order ~= 1 and order ~= 2 then raise(("gradcheck: order must be 1 or 2, got %d"):format(order)) end
  local inputs, checked = {n = #given}, {}
  for i = 1, #given do
    inputs[i] = given[i]
    if is_float(given[i]) then
      inputs[i] = given[i]:detach():to("f64"):clone():requires_grad_()
      checked[#checked + 1] = i
    end
  end
  if #checked == 0 then raise "gradcheck: no input is a tensor of f32 or f64" end
  local options = {eps = eps, tolerance = tolerance}
  local function value(...) return total(f(...)) end
  compare(value, inputs, checked, options, "gradient")
  if order == 2 then
    local function slope(...)
      local arguments, leaves = {...}, {}
      for i, k in ipairs(checked) do leaves[i] = arguments[k] end
      local result = value(...)
      local gradients = {}
      if result.requires_grad then
        gradients = {native.grad(result, leaves, {create_graph = true, allow_unused = true})}
      end
      local found = {native.zeros(1, {dtype = "f64"})}
      for i = 1, #leaves do found[#found + 1] = gradients[i] end
      return total(table.unpack(found))
    end
    compare(slope, inputs, checked, options, "second derivative")
  end
  return true
end
docs.add(gradcheck, "gradcheck", signature,
  "Compares f's gradients with central differences, in f64: true, or an error that says where they differ.  order = 2 "
  .. "checks second derivatives, too; differences may be tolerance (of values above 1: times these).",
  "nn.gradcheck(function(x) return x:tanh() end, {nn.randn(3)})")

return gradcheck
