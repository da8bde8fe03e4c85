--- Every loss as a module: the op of the same meaning with the constructor's arguments.
local define = require "nnlua.define"
local native = require "nnlua.native"

local losses = {}

local reduction = "reduction:{mean|sum|none}=mean"
local on_reduction = "  reduction: the mean of all elements, their sum, or each by itself."

-- A class whose forward is op(input, target, ...), the fields given in the op's order.  Tensors among the arguments
-- become buffers, so that net:to() converts them.
local function loss(name, op, signature, doc, forward)
  local class, read, params = define(name, signature,
    doc .. on_reduction, ("nn.%s()(input, target)"):format(name))

  function class:init(...)
    local values = {read(...)}
    for i, param in ipairs(params) do
      if param.kind == "tensor" then
        self:register_buffer(param.name, values[i])
      else
        self[param.name] = values[i]
      end
    end
  end

  class.forward = forward(native[op])
  function class:extra_repr()
    local parts = {}
    for _, param in ipairs(params) do
      local value = self[param.name]
      if value ~= nil and value ~= param.default then
        parts[#parts + 1] = param.name .. "=" .. (param.kind == "tensor" and tostring(value.shape) or tostring(value))
      end
    end
    return table.concat(parts, ", ")
  end
  losses[name] = class
end

loss("MSELoss", "mse_loss", reduction, "(input - target)^2.", function(f)
  return function(self, input, target) return f(input, target, self.reduction) end
end)

loss("L1Loss", "l1_loss", reduction, "|input - target|.", function(f)
  return function(self, input, target) return f(input, target, self.reduction) end
end)

loss("SmoothL1Loss", "smooth_l1_loss", reduction .. ", beta:num=1.0",
  "d = |input - target|: d^2 / (2 beta) where d < beta, else d - beta / 2.", function(f)
    return function(self, input, target) return f(input, target, self.reduction, self.beta) end
  end)

loss("HuberLoss", "huber_loss", reduction .. ", delta:num=1.0",
  "d = |input - target|: d^2 / 2 where d < delta, else delta (d - delta / 2).", function(f)
    return function(self, input, target) return f(input, target, self.reduction, self.delta) end
  end)

loss("CrossEntropyLoss", "cross_entropy",
  "weight:tensor?, ignore_index:int?, " .. reduction .. ", label_smoothing:num=0.0",
  "-log softmax(input)[target] over dimension 2 (1 of an input with one dimension); target holds class numbers from "
  .. "1, or probabilities in the input's shape.  weight: one number a class; the mean is weighted by it.  "
  .. "ignore_index: a class number that does not count.", function(f)
    return function(self, input, target)
      return f(input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing)
    end
  end)

loss("NLLLoss", "nll_loss", "weight:tensor?, ignore_index:int?, " .. reduction,
  "-input[target] for logarithms of probabilities; target holds class numbers from 1.  weight: one number a class.",
  function(f)
    return function(self, input, target)
      return f(input, target, self.weight, self.ignore_index, self.reduction)
    end
  end)

loss("BCELoss", "binary_cross_entropy", "weight:tensor?, " .. reduction,
  "-(target log(input) + (1 - target) log(1 - input)) for probabilities; logarithms end at -100.", function(f)
    return function(self, input, target) return f(input, target, self.weight, self.reduction) end
  end)

loss("BCEWithLogitsLoss", "binary_cross_entropy_with_logits", "weight:tensor?, " .. reduction .. ", pos_weight:tensor?",
  "Binary cross entropy of sigmoid(input), without overflow.  pos_weight multiplies the term of target = 1.",
  function(f)
    return function(self, input, target)
      return f(input, target, self.weight, self.reduction, self.pos_weight)
    end
  end)

loss("KLDivLoss", "kl_div", "reduction:{mean|batchmean|sum|none}=mean, log_target:flag=false",
  "target (log(target) - input) for logarithms of probabilities as input; log_target: target is such, too; "
  .. "reduction \"batchmean\": the sum divided by the batch, as the mathematical definition wants.",
  function(f)
    return function(self, input, target) return f(input, target, self.reduction, self.log_target) end
  end)

return losses
