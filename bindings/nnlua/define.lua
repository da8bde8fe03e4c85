--- Makes a class of modules with its argument reader and its help text.
local Module = require "nnlua.module"
local args = require "nnlua.args"
local docs = require "nnlua.docs"

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
  return class, read, params
end
