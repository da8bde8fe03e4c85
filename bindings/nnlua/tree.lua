--- Walks what a module holds: parameters, buffers and children, in order of first assignment, with torch's names.
---
--- A module holds what its fields hold: a module, a parameter, or a plain table (a list or a keyed one) of these.
--- List places count from 0 in names, keys of plain tables are taken in alphabetical order.
local native = require "nnlua.native"

local tree = {}

local is_tensor = native.is_tensor
-- Tensors that nn.Parameter() or a walk has found to be parameters; they stay so when they are frozen.
local marked = setmetatable({}, {__mode = "k"})

--- Makes a tensor one that modules hold as a parameter.
function tree.mark(tensor) marked[tensor] = true end

local function is_parameter(value)
  if marked[value] then return true end
  if not is_tensor(value) or not (value.requires_grad and value.is_leaf) then return false end
  marked[value] = true
  return true
end
tree.is_parameter = is_parameter

--- Whether a value is a module.
function tree.is_module(value)
  local meta = type(value) == "table" and getmetatable(value)
  return type(meta) == "table" and rawget(meta, "is_module") == true
end
local is_module = tree.is_module

local function is_plain(value) return type(value) == "table" and getmetatable(value) == nil end

-- Keys of a plain table that may lead to modules and parameters, in a fixed order.
local function keys_of(table_)
  local keys = {}
  for key, value in pairs(table_) do
    if type(key) == "string" and type(value) ~= "string" and type(value) ~= "number" then keys[#keys + 1] = key end
  end
  table.sort(keys)
  return keys
end

-- Calls visit(name, key, value) for every field of a module or a plain table that may hold something.
local function each_field(holder, visit)
  local first = holder[1]
  if type(first) == "table" or type(first) == "userdata" then
    for i = 1, #holder do visit(tostring(i - 1), i, holder[i]) end
  end
  local keys = is_module(holder) and rawget(holder, "_fields") or keys_of(holder)
  for i = 1, #keys do
    local value = rawget(holder, keys[i])
    if value ~= nil then visit(keys[i], keys[i], value) end
  end
end

--- Walks a module.  found.module(name, module), found.parameter(name, tensor, holder, key) and found.buffer(name,
--- tensor, holder, key, persistent) are called where they are given.  Each module is entered once, unless `every`:
--- then once for each way that leads to it.
---@param root table
---@param found table<string, function>
---@param every boolean?
function tree.walk(root, found, every)
  local entered = {}
  local function enter(holder, prefix)
    if entered[holder] then return end
    entered[holder] = true
    local module = is_module(holder)
    local buffers = module and rawget(holder, "_buffers") or {}
    if module and found.module then found.module(prefix, holder) end
    local at = prefix == "" and "" or prefix .. "."
    local kept, inner = {}, {}
    each_field(holder, function(name, key, value)
      if type(value) == "table" then
        if is_module(value) or is_plain(value) then inner[#inner + 1] = {name, value} end
      elseif type(value) == "userdata" then
        if buffers[key] ~= nil then kept[#kept + 1] = {name, key, value}
        elseif found.parameter and is_parameter(value) then found.parameter(at .. name, value, holder, key) end
      end
    end)
    if found.buffer then
      for _, buffer in ipairs(kept) do
        found.buffer(at .. buffer[1], buffer[3], holder, buffer[2], buffers[buffer[2]])
      end
    end
    for _, child in ipairs(inner) do enter(child[2], at .. child[1]) end
    if every then entered[holder] = nil end
  end
  enter(root, "")
end

-- The same way without names, for what is asked for at every step.
local gather

local function gather_value(value, buffers, key, list, seen, inner)
  local kind = type(value)
  if kind == "userdata" then
    if not seen[value] and buffers[key] == nil and (marked[value] or is_parameter(value)) then
      seen[value] = true
      list[#list + 1] = value
    end
  elseif kind == "table" and not seen[value] then
    local meta = getmetatable(value)
    if meta == nil or meta.is_module then
      inner = inner or {}
      inner[#inner + 1] = value
    end
  end
  return inner
end

local no_buffers = {}

function gather(holder, list, seen)
  if seen[holder] then return end
  seen[holder] = true
  local keys, buffers, inner = holder._fields, holder._buffers, nil
  if not keys then keys, buffers = keys_of(holder), no_buffers end
  local first = type(rawget(holder, 1))
  if first == "table" or first == "userdata" then
    for i = 1, #holder do inner = gather_value(holder[i], buffers, i, list, seen, inner) end
  end
  for i = 1, #keys do
    local key = keys[i]
    inner = gather_value(holder[key], buffers, key, list, seen, inner)
  end
  if inner then
    for i = 1, #inner do gather(inner[i], list, seen) end
  end
end

--- All parameters, in order, each once.
---@param root table
---@return nnlua.Tensor[]
function tree.parameters(root)
  local list = {}
  gather(root, list, {})
  return list
end

-- Whether a plain table holds a module, at any depth.
local function holds_module(holder, seen)
  if seen[holder] then return false end
  seen[holder] = true
  local found = false
  each_field(holder, function(_, _, value)
    found = found or is_module(value) or (is_plain(value) and holds_module(value, seen))
  end)
  return found
end

--- The modules, and plain tables with modules, that stand directly in a module: a list of {name, value}.
---@param holder table
---@return table[]
function tree.children(holder)
  local list = {}
  each_field(holder, function(name, _, value)
    if is_module(value) or (is_plain(value) and holds_module(value, {})) then list[#list + 1] = {name, value} end
  end)
  return list
end

--- Where a module stands in another one: "layers.2.conv1"; nil when it does not.
---@param root table
---@param module table
---@return string?
function tree.path(root, module)
  local path
  tree.walk(root, {module = function(name, found)
    if found == module then path = path or name end
  end})
  return path
end

return tree
