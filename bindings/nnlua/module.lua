--- nn.Module: what every layer, model and loss is.
---
---   local Net = nn.Module:subclass "Net"
---   function Net:init(width) self.hidden, self.out = nn.Linear(2, width), nn.Linear(width, 1) end
---   function Net:forward(x) return self.out(nn.F.relu(self.hidden(x))) end
---   local net = Net(16)
local args = require "nnlua.args"
local native = require "nnlua.native"
local tree = require "nnlua.tree"

local raise, walk = native.raise, tree.walk

---@class nnlua.Module
---@field training boolean
---@operator call(...): any
local Module = {is_module = true, __name = "Module"}
Module.__index = Module

---------------------------------------------------------------- calling

-- How many inputs a forward function takes, found when it is first called.
local most_inputs = setmetatable({}, {__mode = "k"})
local observer

local function learn(self, forward)
  if not forward then raise(("%s has no forward function"):format(self.__name)) end
  local parameters, variadic = native.parameters(forward)
  most_inputs[forward] = variadic and math.huge or parameters - 1
  return most_inputs[forward]
end

local function check_surplus(most, ...)
  local got = select("#", ...)
  while got > 0 and (select(got, ...)) == nil do got = got - 1 end
  if got <= most then return end
  if most < 1 then
    raise(("its forward function takes no input besides self, got %d; with a colon, as in function Net:forward(x), "
      .. "self stands by itself"):format(got))
  end
  raise(("takes at most %d input%s, got %d; put a call that gives several results in parentheses, as in net((lstm(x)))")
    :format(most, most == 1 and "" or "s", got))
end

local function pass(...) return ... end

-- The binding looks for frames of this function, whose first local is the module, when it raises an error; so
-- forward's frame stands above it: no tail call.
local function call(self, ...)
  local forward = self.forward
  local most = most_inputs[forward or false] or learn(self, forward)
  if select("#", ...) > most then check_surplus(most, ...) end
  if observer then return pass(observer(self, forward, ...)) end
  return pass(forward(self, ...))
end
Module.__call = call

--- Lets watch(module, forward, ...) stand for all calls of modules while f() runs.
function Module.observe(watch, f)
  local before = observer
  observer = watch
  local results = table.pack(pcall(f))
  observer = before
  if not results[1] then error(results[2], 0) end
  return table.unpack(results, 2, results.n)
end

-- The place of the innermost of the modules that are being called (innermost first): "layers.2.conv1 (Conv2d)".
local function module_path(modules)
  local innermost = modules[1]
  for i = #modules, 2, -1 do
    local path = tree.path(modules[i], innermost)
    if path and path ~= "" then return ("%s (%s)"):format(path, innermost.__name) end
  end
  return innermost.__name
end
native.set_module_hooks(call, module_path)

---------------------------------------------------------------- classes

-- First assignments to a field come here.
local function note_field(self, key, value)
  if type(key) == "string" then
    if type(self[key]) == "function" then
      raise(("%s: '%s' is a method and cannot be a field; choose another name"):format(self.__name, key))
    end
    local fields = self._fields
    if not fields[key] then
      local line = type(value) == "table" or type(value) == "userdata"
      tree.note_field(fields, key, value, line and native.caller_line(2) or 0)
    end
  end
  rawset(self, key, value)
end
Module.__newindex = note_field

local function construct(class, ...)
  local self = setmetatable({training = true, _fields = {}, _buffers = {}, _serial = 0}, class)
  class.init(self, ...)
  rawset(self, "_serial", tree.next_serial())
  return self
end

--- A class of modules with its own `init` and `forward`.
---@param name string
---@return table
function Module:subclass(name, ...)
  args.at_most("subclass", 1, name, ...)
  if type(name) ~= "string" then
    raise("subclass: name must be a string, got " .. args.describe(name) .. '; as in nn.Module:subclass "Net"')
  end
  local class = {}
  for key, value in pairs(self) do
    if type(key) == "string" and key:find "^__" then class[key] = value end
  end
  class.__index, class.__name, class.is_module = class, name, true
  return setmetatable(class, {
    __index = self, __call = construct, __name = "class " .. name,
    __tostring = function() return "class " .. name end,
  })
end

setmetatable(Module, {__call = construct, __tostring = function() return "class Module" end})

--- Builds the module; to be overridden.
function Module:init(...)
  if select("#", ...) > 0 then raise(("%s: takes no arguments"):format(self.__name)) end
end

---------------------------------------------------------------- what a module holds

local read_parameter = args.reader("Parameter", "data:any, requires_grad:flag=true")

--- Marks a tensor as a parameter: a leaf that requires a gradient and shares the tensor's memory.
---@param tensor nnlua.Tensor
---@param requires_grad boolean|{requires_grad: boolean?}? true
---@return nnlua.Tensor
function Module.Parameter(tensor, requires_grad, ...)
  if not native.is_tensor(tensor) then
    raise("Parameter: argument 1 must be a tensor, got " .. args.describe(tensor))
  end
  local _, on = read_parameter(tensor, requires_grad, ...)
  local parameter = tensor:detach()
  if on then parameter.requires_grad = true end
  tree.mark(parameter)
  return parameter
end

local read_persistent = args.reader("register_buffer", "name:any, tensor:any?, persistent:flag=true")

--- A tensor that belongs to the module's state without being trained.
---@param name string
---@param tensor nnlua.Tensor?
---@param persistent boolean|{persistent: boolean?}? true: part of state_dict()
function Module:register_buffer(name, tensor, persistent, ...)
  if type(name) ~= "string" then raise("register_buffer: name must be a string, got " .. args.describe(name)) end
  if tensor ~= nil and not native.is_tensor(tensor) then
    raise(("register_buffer: '%s' must be a tensor, got %s"):format(name, args.describe(tensor)))
  end
  local _, _, kept = read_persistent(name, tensor, persistent, ...)
  self[name] = tensor
  self._buffers[name] = kept
end

-- Lists of {name, value}, each value once.
local function collect(self, what)
  local list, seen = {}, {}
  walk(self, {[what] = function(name, value)
    if seen[value] then return end
    seen[value] = true
    list[#list + 1] = {name, value}
  end})
  return list
end

local function values_of(pairs_)
  local list = {}
  for i, pair in ipairs(pairs_) do list[i] = pair[2] end
  return list
end

local function iterate(list)
  local i = 0
  return function()
    i = i + 1
    if list[i] then return list[i][1], list[i][2] end
  end
end

--- All parameters, in order, each once.
---@return nnlua.Tensor[]
function Module:parameters() return tree.parameters(self) end
--- for name, p in net:named_parameters() do
function Module:named_parameters() return iterate(collect(self, "parameter")) end
---@return nnlua.Tensor[]
function Module:buffers() return values_of(collect(self, "buffer")) end
--- for name, b in net:named_buffers() do
function Module:named_buffers() return iterate(collect(self, "buffer")) end
--- This module and all within, each once, from outside to inside.
---@return nnlua.Module[]
function Module:modules() return values_of(collect(self, "module")) end
--- for name, m in net:named_modules() do; the module itself has the name ""
function Module:named_modules() return iterate(collect(self, "module")) end

-- The modules directly inside; those in plain tables count as such.
local function direct(self)
  local list = {}
  local function add(holder, prefix)
    for _, child in ipairs(tree.children(holder)) do
      local name, value = prefix .. child[1], child[2]
      if tree.is_module(value) then list[#list + 1] = {name, value} else add(value, name .. ".") end
    end
  end
  add(self, "")
  return list
end

--- The modules directly inside.
---@return nnlua.Module[]
function Module:children() return values_of(direct(self)) end
--- for name, m in net:named_children() do
function Module:named_children() return iterate(direct(self)) end

---------------------------------------------------------------- state

--- Parameters and persistent buffers by name: the live values, or a copy with {copy = true}.
---@param options {copy: boolean?}?
---@return table<string, nnlua.Tensor>
function Module:state_dict(options)
  local copy = args.reader("state_dict", "copy:flag=false")(options)
  local state = {}
  local function put(name, tensor, _, _, persistent)
    if persistent == false then return end
    local value = tensor:detach()
    state[name] = copy and value:clone() or value
  end
  walk(self, {parameter = put, buffer = put}, true)
  return state
end

local function quoted(names)
  table.sort(names)
  local shown = {}
  for i = 1, math.min(#names, 8) do shown[i] = "'" .. names[i] .. "'" end
  if #names > 8 then shown[9] = ("... (%d in all)"):format(#names) end
  return table.concat(shown, ", ")
end

--- Copies values into parameters and buffers.  Every name must be there, and no other, unless {strict = false}; then
--- the names that were missing and those that were not wanted are returned.
---@param state table<string, nnlua.Tensor>
---@param options {strict: boolean?}?
---@return string[] missing
---@return string[] unexpected
function Module:load_state_dict(state, options)
  if type(state) ~= "table" then raise("load_state_dict: state must be a table, got " .. args.describe(state)) end
  local strict = args.reader("load_state_dict", "strict:flag=true")(options)
  local targets, missing, unexpected, wrong = {}, {}, {}, {}
  local function note(name, tensor, _, _, persistent)
    if persistent ~= false then targets[name] = tensor end
  end
  walk(self, {parameter = note, buffer = note}, true)
  for name, tensor in pairs(targets) do
    local value = state[name]
    if value == nil then
      missing[#missing + 1] = name
    elseif not native.is_tensor(value) then
      wrong[#wrong + 1] = ("'%s' is %s, not a tensor"):format(name, args.describe(value))
    elseif value.shape ~= tensor.shape then
      wrong[#wrong + 1] = ("'%s' is %s in the state, but %s in the module"):format(name, tostring(value.shape),
        tostring(tensor.shape))
    end
  end
  for name in pairs(state) do
    if not targets[name] then unexpected[#unexpected + 1] = tostring(name) end
  end
  local problems = {}
  if strict and #missing > 0 then problems[1] = "missing: " .. quoted(missing) end
  if strict and #unexpected > 0 then problems[#problems + 1] = "unexpected: " .. quoted(unexpected) end
  table.sort(wrong)
  for i = 1, math.min(#wrong, 8) do problems[#problems + 1] = wrong[i] end
  if #problems > 0 then
    raise(("load_state_dict: the state does not fit %s: %s"):format(self.__name, table.concat(problems, "; ")))
  end
  for name, tensor in pairs(targets) do
    if state[name] then tensor:detach():copy_(state[name]:detach()) end
  end
  table.sort(missing)
  table.sort(unexpected)
  return missing, unexpected
end

--- Writes state_dict() to a safetensors file; meta values (strings, numbers, booleans) go with it.
---@param path string
---@param options {meta: table<string, any>?}?
function Module:save(path, options) native.save(path, self:state_dict(), options) end

--- Reads what save() wrote; returns its meta values.
---@param path string
---@return table<string, any>
function Module:load(path)
  local state, meta = native.load(path)
  self:load_state_dict(state)
  return meta
end

---------------------------------------------------------------- changing

-- A boolean argument, true by default.
local function flag(owner, name, value)
  if value ~= nil and type(value) ~= "boolean" then
    raise(("%s: %s must be true or false, got %s"):format(owner, name, args.describe(value)))
  end
  return value ~= false
end

local function set_mode(self, training)
  walk(self, {module = function(_, module) rawset(module, "training", training) end})
  native.mode_changed()
  return self
end

--- Training mode for this module and all within: dropout drops.
---@param mode boolean? true
function Module:train(mode) return set_mode(self, flag("train", "mode", mode)) end
--- The mode for using what was learned.
function Module:eval() return set_mode(self, false) end

--- Forgets the gradients of all parameters.
function Module:zero_grad()
  local parameters = tree.parameters(self)
  for i = 1, #parameters do parameters[i].grad = nil end
  return self
end

--- Freezes (false) or thaws all parameters.
---@param on boolean? true
function Module:requires_grad_(on)
  on = flag("requires_grad_", "on", on)
  walk(self, {parameter = function(_, p) p.requires_grad = on end})
  return self
end

--- Calls f(module) for every module within, the innermost first, and this one last.
---@param f fun(module: nnlua.Module)
function Module:apply(f)
  if type(f) ~= "function" then raise("apply: f must be a function of a module, got " .. args.describe(f)) end
  local seen = {}
  local function enter(module)
    if seen[module] then return end
    seen[module] = true
    for _, child in ipairs(direct(module)) do enter(child[2]) end
    f(module)
  end
  enter(self)
  return self
end

--- Brings parameters, their gradients and buffers of a floating type to "f32" or "f64".  The parameters stay the ones
--- that optimizers know.
---@param dtype "f32"|"f64"
function Module:to(dtype)
  if dtype ~= "f32" and dtype ~= "f64" then
    raise('to: dtype of a module can be "f32" or "f64", got ' .. args.describe(dtype))
  end
  local function other(tensor) return tensor.dtype ~= dtype and (tensor.dtype == "f32" or tensor.dtype == "f64") end
  -- everything is made before anything is changed
  local parameters, buffers, made = {}, {}, {}
  local function convert_parameter(_, parameter)
    if parameters[parameter] or not other(parameter) then return end
    local value = parameter:detach():to(dtype)
    value.requires_grad = parameter.requires_grad
    if parameter.grad then value.grad = parameter.grad:to(dtype) end
    parameters[parameter] = value
  end
  local function convert_buffer(_, buffer, holder, key)
    if not other(buffer) then return end
    made[buffer] = made[buffer] or buffer:detach():to(dtype)
    buffers[#buffers + 1] = {holder, key, made[buffer]}
  end
  walk(self, {parameter = convert_parameter, buffer = convert_buffer})
  for parameter, value in pairs(parameters) do native.become(parameter, value) end
  for _, change in ipairs(buffers) do rawset(change[1], change[2], change[3]) end
  return self
end

-- A copy of everything a module's fields hold; functions and classes are shared.
local function copy(value, made)
  if made[value] ~= nil then return made[value] end
  if native.is_tensor(value) then
    local twin = value:detach():clone()
    if tree.is_parameter(value) then
      twin.requires_grad = value.requires_grad
      tree.mark(twin, value)
    end
    made[value] = twin
    return twin
  end
  if type(value) ~= "table" then return value end
  local meta = getmetatable(value)
  if meta ~= nil and not tree.is_module(value) then return value end
  local twin = {}
  made[value] = twin
  for key, item in next, value do twin[key] = copy(item, made) end
  return setmetatable(twin, meta)
end

--- A module of its own with the same values; what is tied stays tied within it.
---@return nnlua.Module
function Module:clone() return copy(self, {}) end

---------------------------------------------------------------- showing

--- What stands between the parentheses of print(module); to be overridden.
---@return string
function Module:extra_repr() return "" end -- luacheck: ignore self

local function indent(text) return (text:gsub("\n", "\n  ")) end

local function show(value)
  local name, extra = "ModuleList", ""
  if tree.is_module(value) then
    name, extra = value.__name, value:extra_repr()
  elseif value[1] == nil then
    name = "ModuleDict"
  end
  local lines = {}
  for _, child in ipairs(tree.children(value)) do
    lines[#lines + 1] = ("  (%s): %s"):format(child[1], indent(show(child[2])))
  end
  if #lines == 0 then return ("%s(%s)"):format(name, extra) end
  if extra ~= "" then table.insert(lines, 1, "  " .. extra) end
  return ("%s(\n%s\n)"):format(name, table.concat(lines, "\n"))
end
Module.__tostring = show

--- A table of the layers: results' shapes, parameters and floating-point operations, for inputs of the given shapes
--- (or given as tensors).  {rows = true}: as a list of tables instead of text.
---@param ... any
---@return string
function Module:summary(...) return require "nnlua.summary"(self, ...) end

args.guard_methods(Module, "net", tree.is_module, {parameters = 0, named_parameters = 0, buffers = 0,
  named_buffers = 0, modules = 0, named_modules = 0, children = 0, named_children = 0, state_dict = 1,
  load_state_dict = 2, save = 2, load = 1, train = 1, eval = 0, zero_grad = 0, requires_grad_ = 1, apply = 1, to = 1,
  clone = 0, summary = math.huge})

return Module
