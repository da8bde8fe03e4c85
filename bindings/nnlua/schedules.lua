--- Learning rates that change from epoch to epoch.  Each step() writes the groups' lr; the rules continue from the
--- rate that stands there, as torch's do, so that schedules may be combined.
local args = require "nnlua.args"
local docs = require "nnlua.docs"
local native = require "nnlua.native"

local schedules = {}
local raise = native.raise

---@class nnlua.LRScheduler
---@field optimizer nnlua.Optimizer
---@field last_epoch integer
local LRScheduler = {__name = "LRScheduler"}
LRScheduler.__index = LRScheduler
schedules.LRScheduler = LRScheduler

--- Sets the rates of the next epoch.
function LRScheduler:step()
  if native.capturing() then
    native.raise(self.__name .. ": step() changes numbers of Lua, which a captured function does once; call it outside")
  end
  self.last_epoch = self.last_epoch + 1
  for place, group in ipairs(self.optimizer.param_groups) do
    group.lr = self:rate(group.lr, self.base_lrs[place], self.last_epoch)
  end
end

--- The rates that step() set last.
---@return number[]
function LRScheduler:get_last_lr()
  local rates = {}
  for place, group in ipairs(self.optimizer.param_groups) do rates[place] = group.lr end
  return rates
end

--- Where the schedule stands, as tensors: nn.save() and the optimizer's own state go well with it.
---@return table<string, nnlua.Tensor>
function LRScheduler:state_dict()
  return {last_epoch = native.tensor(self.last_epoch, "i64"), base_lrs = native.tensor(self.base_lrs, "f64")}
end

---@param dict table<string, nnlua.Tensor>
function LRScheduler:load_state_dict(dict)
  for _, name in ipairs {"last_epoch", "base_lrs"} do
    if type(dict) ~= "table" or not native.is_tensor(dict[name]) then
      raise(("load_state_dict: '%s' is missing"):format(name))
    end
  end
  if dict.base_lrs:numel() ~= #self.base_lrs then
    raise(("load_state_dict: base_lrs has %d rates, but the optimizer has %d groups"):format(dict.base_lrs:numel(),
      #self.base_lrs))
  end
  self.last_epoch, self.base_lrs = math.tointeger(dict.last_epoch:item()), dict.base_lrs:totable()
end

args.guard_methods(LRScheduler, "scheduler", function(value)
  return type(value) == "table" and rawget(value, "base_lrs") ~= nil
end, {step = 0, get_last_lr = 0, state_dict = 0, load_state_dict = 1})

local function construct(class, ...)
  local values = {class.read(...)}
  local optimizer = values[1]
  if type(optimizer) ~= "table" or type(rawget(optimizer, "param_groups")) ~= "table" then
    raise(("%s: optimizer must be an optimizer, got %s"):format(class.__name, args.describe(optimizer)))
  end
  local self = setmetatable({optimizer = optimizer, base_lrs = {}, last_epoch = 0}, class)
  for i = 2, #class.params do self[class.params[i].name] = values[i] end
  for place, group in ipairs(optimizer.param_groups) do
    group.initial_lr = group.initial_lr or group.lr
    self.base_lrs[place] = group.initial_lr
  end
  if self.check then self:check() end
  return self
end

--- Makes a kind of schedule: rate(self, lr, base_lr, epoch) gives the rate of an epoch (1, 2 ...) from the one before.
---@param name string
---@param signature string of the arguments behind the optimizer
---@param kind {doc: string, rate: function, check: function?}
---@return table
function LRScheduler.define(name, signature, kind)
  local class = {__name = name, rate = kind.rate, check = kind.check}
  class.__index = class
  class.read, class.params = args.reader(name, "optimizer:any, " .. signature)
  docs.add(class, "optim." .. name, "optimizer:any, " .. signature, kind.doc)
  return setmetatable(class, {
    __index = LRScheduler, __call = construct, __name = "class " .. name,
    __tostring = function() return "class " .. name end,
  })
end

---@class nnlua.StepLR : nnlua.LRScheduler
---@overload fun(optimizer: nnlua.Optimizer, step_size: integer, gamma: number?): nnlua.StepLR
schedules.StepLR = LRScheduler.define("StepLR", "step_size:size, gamma:num=0.1", {
  doc = "Multiplies the rate by gamma every step_size epochs.",
  check = function(self)
    if self.step_size < 1 then raise("StepLR: step_size must be 1 or more, got 0") end
  end,
  rate = function(self, lr, _, epoch) return epoch % self.step_size == 0 and lr * self.gamma or lr end,
})

---@class nnlua.CosineAnnealingLR : nnlua.LRScheduler
---@overload fun(optimizer: nnlua.Optimizer, T_max: integer, eta_min: number?): nnlua.CosineAnnealingLR
schedules.CosineAnnealingLR = LRScheduler.define("CosineAnnealingLR", "T_max:size, eta_min:num=0.0", {
  doc = "Half a cosine from the first rate down to eta_min in T_max epochs: eta_min + (lr - eta_min) (1 + cos(pi t / "
    .. "T_max)) / 2.  Loshchilov and Hutter, arXiv:1608.03983.",
  check = function(self)
    if self.T_max < 1 then raise("CosineAnnealingLR: T_max must be 1 or more, got 0") end
  end,
  rate = function(self, lr, base, epoch)
    local period, low, pi = self.T_max, self.eta_min, math.pi
    if (epoch - 1 - period) % (2 * period) == 0 then -- the way up begins: the quotient below would be 0 / 0
      return lr + (base - low) * (1 - math.cos(pi / period)) / 2
    end
    return (1 + math.cos(pi * epoch / period)) / (1 + math.cos(pi * (epoch - 1) / period)) * (lr - low) + low
  end,
})

return schedules
