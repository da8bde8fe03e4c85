--- Doc comments of the library's own sources, read for help and annotations: what stands before
--- `function Class:method(args)`, and the fields that `---@class` blocks name.
local native = require "nnlua.native"

local sources = {}

local parts = {"module", "layers", "convolution", "pooling", "batch_norm", "recurrent", "transformer", "activations",
  "optimizer", "optim", "schedules", "loader", "datasets", "data", "initializers", "utils"}

local function read_part(part, classes, methods)
  local block, names = {}, {} -- names: local name -> class
  for line in native.resource(part):gmatch "([^\n]*)\n?" do
    if line:find "^%-%-%-" and not line:find "^%-%-%-%-" then
      block[#block + 1] = line
    else
      local text = table.concat(block, "\n")
      local class, parent = text:match "%-%-%-@class nnlua%.([%w_]+)",
        text:match "%-%-%-@class [%w_.]+%s*:%s*([%w_.]+)"
      local owner, dot, name, args = line:match "^function ([%w_]+)([.:])([%w_]+)%((.-)%)"
      if class then
        names[line:match "^local ([%w_]+)" or line:match "^([%w_.]+) =" or class] = class
        classes[class] = {name = class, parent = parent, lines = block}
      elseif owner and names[owner] and #block > 0 and not name:find "^__" then
        args = args:gsub(", %.%.%.$", "") -- only looks whether there are too many
        methods[#methods + 1] = {class = names[owner], dot = dot, name = name, args = args, lines = block}
      end
      if #block > 0 then block = {} end
    end
  end
end

--- classes: name -> {name, parent, lines}; methods: a list of {class, dot, name, args, lines}.
---@return table<string, table> classes
---@return table[] methods
function sources.read()
  local classes, methods = {}, {}
  for _, part in ipairs(parts) do read_part(part, classes, methods) end
  return classes, methods
end

--- The words of a block, without its tags.
---@param lines string[]
---@return string
function sources.words(lines)
  local words = {}
  for _, line in ipairs(lines) do
    if not line:find "^%-%-%-@" then words[#words + 1] = (line:gsub("^%-%-%-%s?", "")) end
  end
  return table.concat(words, " ")
end

return sources
