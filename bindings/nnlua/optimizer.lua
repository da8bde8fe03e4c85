--- What all optimizers share: parameter groups, the step over a group's gradients, and state_dict.
---
--- A kind of optimizer is defined by its signature, the names of the tensors that it keeps for each parameter, and
--- the op that moves all parameters of a group at once.
local args = require "nnlua.args"
local docs = require "nnlua.docs"
local native = require "nnlua.native"
local tree = require "nnlua.tree"

local raise = native.raise

---@class nnlua.Optimizer
---@field param_groups table[]
local Optimizer = {__name = "Optimizer"}
Optimizer.__index = Optimizer

---------------------------------------------------------------- groups

-- A group's options are its fields; a misspelled one is an error when it is assigned.
local function group_meta(optimizer)
  return {
    __name = "parameter group",
    __newindex = function(group, key, value)
      if not optimizer.known[key] then
        raise("param_groups: " .. args.unknown("option", tostring(key), optimizer.names))
      end
      rawset(group, key, value)
    end,
  }
end

local function check_params(optimizer, params, seen)
  local name = optimizer.__name
  if native.is_tensor(params) then
    raise(name .. ": params must be a list of tensors, as net:parameters() gives, got a tensor; put it in {}")
  end
  if tree.is_module(params) then
    raise(("%s: params must be a list of tensors, got a %s; pass net:parameters()"):format(name, params.__name))
  end
  if type(params) ~= "table" then
    raise(("%s: params must be a list of tensors, as net:parameters() gives, got %s"):format(name,
      args.describe(params)))
  end
  args.is_options(name, params, false) -- a mixture is an error
  for i, tensor in ipairs(params) do
    if not native.is_tensor(tensor) then
      raise(("%s: parameter %d must be a tensor, got %s"):format(name, i, args.describe(tensor)))
    end
    if not tensor.is_leaf then
      raise(("%s: parameter %d is the result of an op; only leaves can be optimized"):format(name, i))
    end
    if tensor.dtype ~= "f32" and tensor.dtype ~= "f64" then
      raise(("%s: parameter %d is %s, but only f32 and f64 can be optimized"):format(name, i, tensor.dtype))
    end
    if seen[tensor] then raise(("%s: parameter %d is given twice"):format(name, i)) end
    seen[tensor] = true
  end
end

local function copied(value)
  if type(value) ~= "table" then return value end
  return table.move(value, 1, #value, 1, {})
end

--- One more group of parameters: {params = list, lr = ...}; options that are not given are the optimizer's.
---@param group table
function Optimizer:add_param_group(group)
  local name = self.__name
  if type(group) ~= "table" or group.params == nil then
    raise(name .. ": a group must be a table {params = list, ...}, got " .. args.describe(group))
  end
  local list = native.is_tensor(group.params) and {group.params} or group.params
  local seen = {}
  for tensor in pairs(self._seen) do seen[tensor] = true end
  check_params(self, list, seen)
  local new = {params = table.move(list, 1, #list, 1, {})}
  for key, value in pairs(group) do
    if key ~= "params" then
      local param = self.known[key]
      if not param or key == "params" then raise(name .. ": " .. args.unknown("option", tostring(key), self.names)) end
      new[key] = args.convert(name, param, value)
    end
  end
  for _, param in ipairs(self.options) do
    if new[param.name] == nil then new[param.name] = copied(self.defaults[param.name]) end
  end
  if self.check then self.check(new, name) end
  self._seen = seen
  self.param_groups[#self.param_groups + 1] = setmetatable(new, group_meta(self))
  self._state[#self._state + 1] = {grads = {}}
end

local function construct(class, ...)
  local values = {class.read(...)}
  local self = setmetatable({param_groups = {}, _state = {}, _seen = {}, defaults = {}}, class)
  for i, param in ipairs(class.options) do self.defaults[param.name] = values[i + 1] end
  local params = values[1]
  if type(params) == "table" and not native.is_tensor(params) and getmetatable(params) == nil
    and type(params[1]) == "table" then
    for _, group in ipairs(params) do self:add_param_group(group) end
  else
    check_params(self, params, {})
    if #params == 0 then
      raise(class.__name .. ": params is an empty list; a module has the parameters of what is in its fields, "
        .. "as in self.layer = nn.Linear(2, 1)")
    end
    self:add_param_group {params = params}
  end
  return self
end

---------------------------------------------------------------- state and steps

-- The tensors kept for a group are made at its first step.
local function state_of(self, place)
  local state, group = self._state[place], self.param_groups[place]
  if not state.steps then state.steps = native.zeros(#group.params, {dtype = "i64"}) end
  for _, name in ipairs(self.kept(group)) do
    if not state[name] then
      local list = {}
      local start = self.start and self.start(group, name) or 0
      for i, p in ipairs(group.params) do
        list[i] = native.full(p.shape, start, {dtype = p.dtype})
      end
      state[name] = list
    end
  end
  return state
end

--- Moves the parameters that have a gradient.  closure() may compute the loss anew; its result is returned.
---@param closure (fun(): nnlua.Tensor)?
---@return nnlua.Tensor?
function Optimizer:step(closure)
  local loss = closure and native.enable_grad(closure)
  local groups = self.param_groups
  for place = 1, #groups do
    local group, state = groups[place], self._state[place]
    local params, grads = group.params, state.grads
    local any
    for i = 1, #params do
      local grad = params[i].grad
      grads[i] = grad or false
      any = any or grad
    end
    if any then
      -- while a step is captured, state is made for real, and the group's numbers are noted as live
      local kept = native.outside(state_of, self, place)
      if native.capturing() then
        native.watch(groups, "#")
        native.watch(group, table.unpack(self.decides or {}))
      end
      native.live(group)
      self.move(params, grads, kept, group)
    end
    -- kept no longer than the parameters keep them
    for i = 1, #params do grads[i] = false end
  end
  return loss
end

--- Forgets the gradients of all parameters; with {set_to_none = false} they become 0.
---@param options {set_to_none: boolean?}?
function Optimizer:zero_grad(options)
  local forget = true
  if options ~= nil then forget = args.reader("zero_grad", "set_to_none:flag=true")(options) end
  local groups = self.param_groups
  for place = 1, #groups do
    local params = groups[place].params
    for i = 1, #params do
      if forget then
        params[i].grad = nil
      elseif params[i].grad then
        params[i].grad = native.zeros_like(params[i].grad)
      end
    end
  end
end

local scalar_dtypes = {num = "f64", int = "i64", flag = "bool"}

--- State and hyperparameters by name: "state.0.exp_avg" of the first parameter (counted over all groups),
--- "param_groups.0.lr" of the first group.  The state is live; {copy = true} takes a snapshot.
---@param options {copy: boolean?}?
---@return table<string, nnlua.Tensor>
function Optimizer:state_dict(options)
  local copy = args.reader("state_dict", "copy:flag=false")(options)
  local dict, before = {}, 0
  for place, group in ipairs(self.param_groups) do
    local state = self._state[place]
    for i = 1, #group.params do
      local at = ("state.%d."):format(before + i - 1)
      if state.steps then
        local step = state.steps:select(1, i)
        dict[at .. "step"] = copy and step:clone() or step
      end
      for _, name in ipairs(self.kept(group)) do
        if state[name] then dict[at .. name] = copy and state[name][i]:clone() or state[name][i] end
      end
    end
    for _, param in ipairs(self.options) do
      dict[("param_groups.%d.%s"):format(place - 1, param.name)] =
        native.tensor(group[param.name], scalar_dtypes[param.kind])
    end
    if group.initial_lr then
      dict[("param_groups.%d.initial_lr"):format(place - 1)] = native.tensor(group.initial_lr, "f64")
    end
    before = before + #group.params
  end
  return dict
end

-- What a dict of state says of one group, checked: options, and state tensors by name and parameter.
local function read_group(self, dict, place, before, used)
  local group = self.param_groups[place]
  local options, kept = {}, {}
  local function fail(text) raise("load_state_dict: " .. text) end
  for _, name in ipairs {"initial_lr", table.unpack(self.names)} do
    local key = ("param_groups.%d.%s"):format(place - 1, name)
    local value = dict[key]
    used[key] = true
    if native.is_tensor(value) then options[name] = value:totable()
    elseif name ~= "initial_lr" then fail(("'%s' is missing"):format(key)) end
  end
  local merged = setmetatable(options, {__index = group})
  local names = {"step", table.unpack(self.kept(merged))}
  local stepped = dict[("state.%d.step"):format(before)] ~= nil
  for i, p in ipairs(group.params) do
    for _, name in ipairs(names) do
      local key = ("state.%d.%s"):format(before + i - 1, name)
      local value = dict[key]
      used[key] = true
      if stepped and not native.is_tensor(value) then fail(("'%s' is missing"):format(key)) end
      if value and name ~= "step" and value.shape ~= p.shape then
        fail(("'%s' is %s, but parameter %d is %s"):format(key, tostring(value.shape), before + i, tostring(p.shape)))
      end
      kept[name] = kept[name] or {}
      kept[name][i] = value
    end
  end
  return {options = options, kept = kept, stepped = stepped, names = names}
end

--- Takes over what state_dict() of an optimizer of the same kind, with groups of the same sizes, gave.
---@param dict table<string, nnlua.Tensor>
function Optimizer:load_state_dict(dict)
  if type(dict) ~= "table" then raise("load_state_dict: state must be a table, got " .. args.describe(dict)) end
  local read, before, used = {}, 0, {}
  for place, group in ipairs(self.param_groups) do
    read[place] = read_group(self, dict, place, before, used)
    before = before + #group.params
  end
  for key in pairs(dict) do
    if not used[key] then
      raise(("load_state_dict: '%s' is unexpected; the optimizer has %d groups and %d parameters"):format(
        tostring(key), #self.param_groups, before))
    end
  end
  for place, group in ipairs(self.param_groups) do
    local entry = read[place]
    setmetatable(entry.options, nil)
    for name, value in pairs(entry.options) do rawset(group, name, value) end
    -- captured functions know the tensors that there are
    local state = (entry.stepped or self._state[place].steps) and state_of(self, place)
    for _, name in ipairs(state and entry.names or {}) do
      for i = 1, #group.params do
        local target, value = name == "step" and state.steps:select(1, i) or state[name][i], (entry.kept[name] or {})[i]
        if value then target:copy_(value:detach())
        else target:fill_(name ~= "step" and self.start and self.start(group, name) or 0) end
      end
    end
  end
end

function Optimizer:__tostring()
  local lines = {self.__name .. " ("}
  for place, group in ipairs(self.param_groups) do
    lines[#lines + 1] = ("  group %d: %d parameters"):format(place, #group.params)
    for _, param in ipairs(self.options) do
      local value = group[param.name]
      lines[#lines + 1] = ("    %s: %s"):format(param.name,
        type(value) == "table" and "{" .. table.concat(value, ", ") .. "}" or tostring(value))
    end
  end
  lines[#lines + 1] = ")"
  return table.concat(lines, "\n")
end

args.guard_methods(Optimizer, "optimizer", function(value)
  return type(value) == "table" and rawget(value, "param_groups") ~= nil
end, {step = 1, zero_grad = 1, state_dict = 1, load_state_dict = 1, add_param_group = 1})

---------------------------------------------------------------- kinds

--- Makes a kind of optimizer.
---   kept(group)             names of the tensors kept for each parameter of a group
---   decides                 options on which these names depend: whether they are 0 or false
---   start(group, name)      their first value, if not 0
---   check(group, name)      raises for options that do not fit
---   move(params, grads, state, group)   one step; grads holds false where there is none
---@param name string
---@param signature string of the options, behind params
---@param kind {kept: function, decides: string[]?, start: function?, check: function?, move: function, doc: string}
---@return table
function Optimizer.define(name, signature, kind)
  local class = {__name = name, __tostring = Optimizer.__tostring}
  class.__index = class
  -- opt.lr = 0.1 would change nothing
  function class.__newindex(self, key, value)
    if class.known[key] then
      raise(("%s: %s belongs to the groups: optimizer.param_groups[1].%s = ..."):format(name, key, key))
    end
    rawset(self, key, value)
  end
  for _, key in ipairs {"kept", "decides", "start", "check", "move"} do class[key] = kind[key] end
  local whole = "params:any, " .. signature
  class.read = args.reader(name, whole)
  class.options = args.parse(signature)
  class.names, class.known = {}, {initial_lr = {name = "initial_lr", kind = "num"}}
  for i, param in ipairs(class.options) do
    class.names[i], class.known[param.name] = param.name, param
  end
  docs.add(class, "optim." .. name, whole, kind.doc, ("nn.optim.%s(net:parameters(), {lr = 0.01})"):format(name))
  return setmetatable(class, {
    __index = Optimizer, __call = construct, __name = "class " .. name,
    __tostring = function() return "class " .. name end,
  })
end

--- A check that each named option is at least 0.
---@param names string[]
function Optimizer.at_least_0(names)
  return function(group, owner)
    for _, name in ipairs(names) do
      local value = group[name]
      if value < 0 or value ~= value then
        raise(("%s: %s must be 0 or more, got %s"):format(owner, name, value))
      end
    end
  end
end

return Optimizer
