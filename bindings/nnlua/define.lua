--- Makes a class of modules with its argument reader and its help text.
local Module = require "nnlua.module"
local args = require "nnlua.args"
local docs = require "nnlua.docs"
local native = require "nnlua.native"

--- local Linear, read = define("Linear", "in_features:size, out_features:size, bias:flag=true", doc, example)
---@param name string
---@param signature string
---@param doc string
---@param example string?
---@param parent table? Module
---@return table class
---@return fun(...): ... read
---@return table[] params
return function(name, signature, doc, example, parent)
  local class = (parent or Module):subclass(name)
  docs.add(class, name, signature, doc, example)
  local read, params = args.reader(name, signature)
  -- nn.ReLU(x): x is an input, and the module is yet to be made
  local function read_own(...)
    for i = 1, select("#", ...) do
      local kind = params[i] and params[i].kind
      if native.is_tensor((select(i, ...))) and kind ~= "tensor" and kind ~= "any" then
        native.raise(("%s: argument %d is %s, but %s makes a module; make it first, then call it, as in "
          .. "nn.%s(...)(x)"):format(name, i, args.describe((select(i, ...))), name, name))
      end
    end
    return read(...)
  end
  return class, read_own, params
end
