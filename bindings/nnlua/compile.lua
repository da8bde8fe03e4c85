--- nn.compile and nn.scalar: the interface of captured steps.  For now the function runs as it is.
local args = require "nnlua.args"
local docs = require "nnlua.docs"
local native = require "nnlua.native"

local captured = {}

--- The function to call instead of f.  Nothing is captured yet: it calls f each time.
---@generic F: function
---@param f F
---@return F
function captured.compile(f, ...)
  args.at_most("compile", 1, f, ...)
  local meta = getmetatable(f)
  if type(f) ~= "function" and not (type(meta) == "table" and meta.__call) then
    native.raise("compile: argument 1 must be a function, got " .. args.describe(f))
  end
  return function(...) return f(...) end
end
docs.add(captured.compile, "compile", "f:function",
  "The function to call instead of f: a training step, captured at its first call and replayed natively.  In this "
  .. "version nothing is captured: the result calls f each time, with the same results.",
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
