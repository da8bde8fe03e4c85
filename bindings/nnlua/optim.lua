--- nn.optim: optimizers with torch's options and numbers, each a single op over all parameters of a group; and
--- schedules of the learning rate.
local Optimizer = require "nnlua.optimizer"
local native = require "nnlua.native"
local schedules = require "nnlua.schedules"

local optim = {Optimizer = Optimizer}
local raise = native.raise
local sgd_step, adam_step = native.op "sgd_step", native.op "adam_step"
local rmsprop_step, adagrad_step = native.op "rmsprop_step", native.op "adagrad_step"
local nothing = {}

---------------------------------------------------------------- SGD

local sgd_check = Optimizer.at_least_0 {"lr", "momentum", "weight_decay"}
local momentum_only = {"momentum_buffer"}

---@class nnlua.SGD : nnlua.Optimizer
---@overload fun(params: nnlua.Tensor[]|table[], options: table?): nnlua.SGD
optim.SGD = Optimizer.define("SGD", "lr:num=0.001, momentum:num=0.0, dampening:num=0.0, weight_decay:num=0.0, "
  .. "nesterov:flag=false, maximize:flag=false", {
  doc = "Gradient descent: d = g + weight_decay p; b = momentum b + (1 - dampening) d (d at the first step); "
    .. "p = p - lr b, or p - lr (d + momentum b) with nesterov.",
  kept = function(group) return group.momentum ~= 0 and momentum_only or nothing end,
  decides = {"momentum"},
  check = function(group, name)
    sgd_check(group, name)
    if group.nesterov and (group.momentum <= 0 or group.dampening ~= 0) then
      raise("SGD: nesterov needs momentum above 0 and dampening 0")
    end
  end,
  move = function(params, grads, state, group)
    local momentum = group.momentum
    sgd_step(params, grads, momentum ~= 0 and state.momentum_buffer or nil, state.steps, group.lr, momentum,
      group.dampening, group.weight_decay, group.nesterov, group.maximize)
  end,
})

---------------------------------------------------------------- Adam, AdamW

local adam_check = Optimizer.at_least_0 {"lr", "eps", "weight_decay"}
local averages, with_largest = {"exp_avg", "exp_avg_sq"}, {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}

local function adam(name, decay, decoupled, doc)
  return Optimizer.define(name, "lr:num=0.001, betas:num[2]={0.9, 0.999}, eps:num=1e-08, weight_decay:num=" .. decay
    .. ", amsgrad:flag=false, maximize:flag=false", {
    doc = doc,
    kept = function(group) return group.amsgrad and with_largest or averages end,
    decides = {"amsgrad"},
    check = function(group, owner)
      adam_check(group, owner)
      for i = 1, 2 do
        local beta = type(group.betas) == "table" and group.betas[i]
        if not beta or beta < 0 or beta >= 1 then
          raise(("%s: betas must be two numbers in 0 .. 1 (without 1)"):format(owner))
        end
      end
    end,
    move = function(params, grads, state, group)
      local betas = group.betas
      adam_step(params, grads, state.exp_avg, state.exp_avg_sq, group.amsgrad and state.max_exp_avg_sq or nil,
        state.steps, group.lr, betas[1], betas[2], group.eps, group.weight_decay, decoupled, group.maximize)
    end,
  })
end

---@class nnlua.Adam : nnlua.Optimizer
---@overload fun(params: nnlua.Tensor[]|table[], options: table?): nnlua.Adam
optim.Adam = adam("Adam", "0.0", false,
  "m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, p = p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - "
  .. "beta2^t)) + eps); g includes weight_decay p; amsgrad: with the largest v so far.  arXiv:1412.6980.")

---@class nnlua.AdamW : nnlua.Optimizer
---@overload fun(params: nnlua.Tensor[]|table[], options: table?): nnlua.AdamW
optim.AdamW = adam("AdamW", "0.01", true,
  "Adam, but the weight decay is taken off the parameters by itself: p = p - lr weight_decay p.  arXiv:1711.05101.")

---------------------------------------------------------------- RMSprop, Adagrad

local rmsprop_kept = {
  [false] = {[false] = {"square_avg"}, [true] = {"square_avg", "momentum_buffer"}},
  [true] = {[false] = {"square_avg", "grad_avg"}, [true] = {"square_avg", "grad_avg", "momentum_buffer"}},
}

---@class nnlua.RMSprop : nnlua.Optimizer
---@overload fun(params: nnlua.Tensor[]|table[], options: table?): nnlua.RMSprop
optim.RMSprop = Optimizer.define("RMSprop", "lr:num=0.01, alpha:num=0.99, eps:num=1e-08, weight_decay:num=0.0, "
  .. "momentum:num=0.0, centered:flag=false, maximize:flag=false", {
  doc = "v = alpha v + (1 - alpha) g^2, d = g / (sqrt(v) + eps), b = momentum b + d, p = p - lr b; centered: the "
    .. "square of g's running mean is taken off v.",
  kept = function(group) return rmsprop_kept[group.centered][group.momentum > 0] end,
  decides = {"centered", "momentum"},
  check = Optimizer.at_least_0 {"lr", "alpha", "eps", "weight_decay", "momentum"},
  move = function(params, grads, state, group)
    local momentum = group.momentum
    rmsprop_step(params, grads, state.square_avg, group.centered and state.grad_avg or nil,
      momentum > 0 and state.momentum_buffer or nil, group.lr, group.alpha, group.eps, group.weight_decay, momentum,
      group.maximize)
  end,
})

local sum_only = {"sum"}

---@class nnlua.Adagrad : nnlua.Optimizer
---@overload fun(params: nnlua.Tensor[]|table[], options: table?): nnlua.Adagrad
optim.Adagrad = Optimizer.define("Adagrad", "lr:num=0.01, lr_decay:num=0.0, weight_decay:num=0.0, "
  .. "initial_accumulator_value:num=0.0, eps:num=1e-10, maximize:flag=false", {
  doc = "s = s + g^2, p = p - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps).  Duchi et al., JMLR 12 (2011).",
  kept = function() return sum_only end,
  start = function(group) return group.initial_accumulator_value end,
  check = Optimizer.at_least_0 {"lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps"},
  move = function(params, grads, state, group)
    adagrad_step(params, grads, state.sum, state.steps, group.lr, group.lr_decay, group.eps, group.weight_decay,
      group.maximize)
  end,
})

for name, schedule in pairs(schedules) do optim[name] = schedule end

return optim
