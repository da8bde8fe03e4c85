--- nnlua: deep learning on a C runtime.  require "nnlua" gives the table nn with everything in it.
local native = require "nnlua.native"
local args = require "nnlua.args"

local Module = require "nnlua.module"
local captured = require "nnlua.compile"
local docs = require "nnlua.docs"

local nn = {}

-- Tables whose unknown fields are errors that name the nearest known one.
local function guarded(name, table_)
  return setmetatable(table_, {
    __name = name, is_namespace = true,
    __index = function(_, key)
      local names = {}
      for known in pairs(table_) do
        if type(known) == "string" then names[#names + 1] = known end
      end
      table.sort(names)
      local near = native.nearest(tostring(key), names)
      native.raise(("%s: there is no field '%s'%s"):format(name, tostring(key),
        near and (" (did you mean '%s'?)"):format(near) or ""))
    end,
  })
end

---------------------------------------------------------------- ops

-- What the library itself needs of the binding and scripts do not.
local internal = {capturing = true, compiled = true, live = true, mode_changed = true, outside = true,
  prefetch = true, recomputing = true, methods = true, op = true, run_define = true, set_module_hooks = true,
  raise = true, nearest = true, watch = true,
  resource = true, caller_line = true, parameters = true, become = true, idx = true, npy = true, idx_bytes = true,
  ops = true, op_names = true}

-- torch's method has its tensor first: x:where(condition, other).
function native.methods.where(input, condition, other) return native.where(condition, input, other) end

nn.functional = {}
for name, value in pairs(native) do
  if not internal[name] then nn[name] = value end
end
for _, op in ipairs(native.op_names()) do
  for _, name in ipairs {op, op .. "_"} do nn.functional[name] = native[name] end
end
guarded("nn.functional", nn.functional)
nn.F = nn.functional
nn.ops = native.ops

---------------------------------------------------------------- modules

nn.Module, nn.Parameter = Module, Module.Parameter
for _, part in ipairs {"layers", "convolution", "pooling", "batch_norm", "recurrent", "transformer", "activations",
  "losses"} do
  for name, class in pairs(require("nnlua." .. part)) do nn[name] = class end
end

nn.init = guarded("nn.init", require "nnlua.initializers")
nn.optim = guarded("nn.optim", require "nnlua.optim")
nn.utils = guarded("nn.utils", require "nnlua.utils")
nn.data = guarded("nn.data", require "nnlua.data")

---------------------------------------------------------------- gradients, captured steps

nn.gradcheck = require "nnlua.gradcheck"
nn.compile, nn.scalar = captured.compile, captured.scalar

--- The same values without their history: a tensor, or a nested table of tensors.
---@generic T
---@param value T
---@return T
function nn.detach(value, ...)
  args.at_most("detach", 1, value, ...)
  if native.is_tensor(value) then return native.detach(value) end
  if type(value) ~= "table" then
    native.raise("detach: argument 1 must be a tensor or a table of tensors, got " .. args.describe(value))
  end
  local function each(item)
    if native.is_tensor(item) then return native.detach(item) end
    if type(item) ~= "table" then return item end
    local copy = {}
    for key, inner in pairs(item) do copy[key] = each(inner) end
    return copy
  end
  return each(value)
end
docs.add(nn.detach, "detach", "value:any",
  "The same values, in the same memory, without their history: of a tensor or a nested table of tensors.")
docs.add(nn.Parameter, "Parameter", "tensor:tensor, requires_grad:flag=true",
  "Marks a tensor as a parameter of the module in whose field it is put.", "self.scale = nn.Parameter(nn.ones(3))")
docs.add(nn.Module, "Module", "", "What every layer, model and loss is: nn.Module:subclass \"Name\" makes a class with "
  .. "init and forward of its own.  Methods: parameters, named_parameters, buffers, children, modules, state_dict, "
  .. "load_state_dict, save, load, train, eval, zero_grad, requires_grad_, to, clone, apply, register_buffer, summary.")

nn.docs = docs.text

--- Prints what there is to say about a name or a value: nn.help("softmax"), nn.help(nn.Linear); without one, what
--- there is.
---@param what any
function nn.help(what) require("nnlua.help").say(what) end

return guarded("nn", nn)
