--- nn.compile and nn.scalar: functions captured once for each kind of arguments and replayed natively.
local args = require "nnlua.args"
local docs = require "nnlua.docs"
local native = require "nnlua.native"
local Module = require "nnlua.module"

local captured = {}

-- f as it runs while it is captured: the modules that it calls are noted with their modes, {m1, mode1, m2, ...}.
local function noting(f)
  return function(modes, ...)
    local arguments, met = table.pack(...), {}
    return Module.observe(function(module, forward, ...)
      if not met[module] then
        met[module] = true
        modes[#modes + 1], modes[#modes + 2] = module, module.training
      end
      return forward(module, ...)
    end, function() return f(table.unpack(arguments, 1, arguments.n)) end)
  end
end

local read = args.reader("compile", "f:any, fallback:flag=false, exact:flag=true")

--- A function that does what f does, captured at its first call with each kind of arguments and replayed natively.
---@generic F: function
---@param f F
---@param options {fallback: boolean?, exact: boolean?}? run f as it is where it cannot be captured; keep its bits
---@return F
function captured.compile(f, ...)
  local meta = getmetatable(f)
  if type(f) ~= "function" and not (type(meta) == "table" and meta.__call) then
    native.raise("compile: argument 1 must be a function, got " .. args.describe(f))
  end
  local _, fallback, exact = read(f, ...)
  return native.compiled(f, noting(f), fallback, exact)
end
docs.add(captured.compile, "compile", "f:function, fallback:flag=false, exact:flag=true",
  "A function that does what f does: captured at its first call with each kind of arguments (structure, shapes, types, "
  .. "other values, train or eval, grad mode) and replayed natively, without Lua.  Parameters, gradients, optimizer "
  .. "state and hyperparameters, nn.scalar values and random numbers are live; other Lua values are those of the "
  .. "capture.  Values of tensors cannot be read inside; with fallback, such a function runs as it is.  "
  .. "With {exact = false} sums may be added up in other orders, and bits be others than f's own: 3x3 convolutions "
  .. "of f32 with stride 1, and their input's gradient, by Winograd's tiles where that is quicker (errors up to 2e-5 "
  .. "of the largest sum of |x||w|).",
  "local step = nn.compile(function(x, y) opt:zero_grad(); local l = loss(net(x), y); l:backward(); opt:step(); "
  .. "return l end)")

--- A number that captured functions read afresh at each call: a 0-d f64 tensor, set by s:fill_(v).
---@param value number
---@return nnlua.Tensor
function captured.scalar(value, ...)
  args.at_most("scalar", 1, value, ...)
  if type(value) ~= "number" then native.raise("scalar: value must be a number, got " .. args.describe(value)) end
  return native.tensor(value, "f64")
end
docs.add(captured.scalar, "scalar", "value:num",
  "A number that functions made by nn.compile read afresh at each call: a 0-d f64 tensor; s:fill_(v) sets it.",
  "local s = nn.scalar(0.1)")

return captured
