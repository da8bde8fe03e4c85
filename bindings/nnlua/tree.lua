--- Walks what a module holds: parameters, buffers and children, in order of first assignment, with torch's names.
---
--- A module holds what its fields hold: a module, a parameter, or a plain table (a list or a keyed one) of these.
--- List places count from 0 in names; a plain keyed table is taken in the order in which what it holds was made, which
--- is the order in which it was written.
local native = require "nnlua.native"

local tree = {}

local is_tensor = native.is_tensor
-- Tensors that nn.Parameter() or a walk has found to be parameters, with their serial numbers; they stay so when they
-- are frozen.
local marked = setmetatable({}, {__mode = "k"})
local serial = 0

--- The number of the next module or parameter that is made.
---@return integer
function tree.next_serial()
  serial = serial + 1
  return serial
end

--- Makes a tensor one that modules hold as a parameter; made like another one, it takes its place in orders.
---@param tensor nnlua.Tensor
---@param like nnlua.Tensor?
function tree.mark(tensor, like) marked[tensor] = like and marked[like] or tree.next_serial() end

local function is_parameter(value)
  if marked[value] then return true end
  if not is_tensor(value) or not (value.requires_grad and value.is_leaf) then return false end
  tree.mark(value)
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

--- When a module, a parameter or the first of these in a plain table was made; nil for other values.
---@param value any
---@return integer?
local function serial_of(value)
  if type(value) == "userdata" then return marked[value] end
  if type(value) ~= "table" then return nil end
  if is_module(value) then return value._serial end
  local first
  if is_plain(value) then
    for _, item in next, value do
      local own = not is_plain(item) and serial_of(item)
      if own and (not first or own < first) then first = own end
    end
  end
  return first
end

-- Slots of the list of fields for what is known of the statement that assigned last: its line, the place of its first
-- field, and the serial number reached before it.
local LINE, START, BEFORE = -1, -2, -3

--- Notes the first assignment to a field of a module, at a script's line.  `a, b = x, y` assigns b first; x, which was
--- made first, is to stand first: so a value made later does not stay before it when both come from one statement.
---@param fields table
---@param key string
---@param value any
---@param line integer
function tree.note_field(fields, key, value, line)
  local place, own = #fields + 1, serial_of(value)
  if own then
    if fields[LINE] ~= line then
      fields[LINE], fields[START], fields[BEFORE] = line, place, fields[0] or 0
    elseif own > fields[BEFORE] then
      for i = #fields, fields[START], -1 do
        local other = fields[fields[i]]
        if other > own then place = i end
      end
    end
  end
  fields[0] = serial
  table.insert(fields, place, key)
  fields[key] = own or 0
end

--- Keys of a plain table that may lead to modules and parameters, in the order in which these were made.
---@param holder table
---@return string[]
local function keys_of(holder)
  local keys, made = {}, {}
  for key, value in next, holder do
    local kind = type(value)
    if type(key) == "string" and (kind == "table" or kind == "userdata") then
      keys[#keys + 1] = key
      made[key] = serial_of(value) or math.huge
    end
  end
  if #keys > 1 then
    table.sort(keys, function(a, b)
      if made[a] ~= made[b] then return made[a] < made[b] end
      return a < b
    end)
  end
  return keys
end
tree.keys_of = keys_of

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
