--- Every activation as a module: the op of the same kind with the constructor's arguments.
local Module = require "nnlua.module"
local define = require "nnlua.define"
local init = require "nnlua.initializers"
local native = require "nnlua.native"

local activations = {}

local function shown(value) return type(value) == "string" and ("'%s'"):format(value) or tostring(value) end

-- A class whose forward is the op with the fields `params` behind the input.  Signatures may end in "inplace":
-- then the op's in-place twin is used where that is asked for.
local function activation(name, op, signature, doc, arguments)
  local class, read, params = define(name, signature, doc, ("nn.%s(%s)(nn.randn(4))"):format(name, arguments or ""))
  local names = {}
  for i, param in ipairs(params) do names[i] = param.name end
  local inplace = names[#names] == "inplace" and table.remove(names)
  local a, b = names[1], names[2]
  local f, f_ = native[op], native[op .. "_"]

  function class:init(...)
    local values = {read(...)}
    for i, param in ipairs(params) do self[param.name] = values[i] end
  end

  if inplace then
    function class:forward(input)
      if self.inplace then return f_(input, a and self[a], b and self[b]) end
      return f(input, a and self[a], b and self[b])
    end
  elseif b then
    function class:forward(input) return f(input, self[a], self[b]) end
  elseif a then
    function class:forward(input) return f(input, self[a]) end
  else
    function class:forward(input) return f(input) end -- luacheck: ignore self
  end

  function class:extra_repr()
    local parts = {}
    for _, param in ipairs(params) do
      local value = self[param.name]
      if param.name ~= "inplace" then
        parts[#parts + 1] = param.name .. "=" .. shown(value)
      elseif value then
        parts[#parts + 1] = "inplace"
      end
    end
    return table.concat(parts, ", ")
  end

  activations[name] = class
  return class
end

activation("Sigmoid", "sigmoid", "", "1 / (1 + e^-x).")
activation("Tanh", "tanh", "", "(e^x - e^-x) / (e^x + e^-x).")
activation("ArcTan", "arctan", "", "atan(x).")
activation("Softsign", "softsign", "", "x / (1 + |x|).")
activation("BinaryStep", "binary_step", "", "1 for x >= 0, else 0; the gradient is 0.")
activation("Sinusoid", "sinusoid", "", "sin(x).")
activation("Gaussian", "gaussian", "", "e^(-x^2).")
activation("ReLU", "relu", "inplace:flag=false", "max(0, x).")
activation("ReLU6", "relu6", "inplace:flag=false", "min(max(0, x), 6).")
activation("LeakyReLU", "leaky_relu", "negative_slope:num=0.01, inplace:flag=false",
  "x for x > 0, else negative_slope x.")
activation("ELU", "elu", "alpha:num=1.0, inplace:flag=false", "x for x > 0, else alpha (e^x - 1).  arXiv:1511.07289.")
activation("SELU", "selu", "inplace:flag=false",
  "s x for x > 0, else s a (e^x - 1), with s = 1.0507 and a = 1.67326.  arXiv:1706.02515.")
activation("CELU", "celu", "alpha:num=1.0, inplace:flag=false",
  "x for x > 0, else alpha (e^(x / alpha) - 1).  arXiv:1704.07483.")
activation("Softplus", "softplus", "beta:num=1.0, threshold:num=20.0",
  "log(1 + e^(beta x)) / beta; x where beta x > threshold.")
activation("SiLU", "silu", "inplace:flag=false", "x sigmoid(x), also called swish.  arXiv:1702.03118.")
activation("GELU", "gelu", "approximate:{none|tanh}=none",
  "x Phi(x), Phi being the normal distribution function; approximate = \"tanh\": "
  .. "x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2.  arXiv:1606.08415.")
activation("Mish", "mish", "inplace:flag=false", "x tanh(softplus(x)).  arXiv:1908.08681.")
activation("Hardsigmoid", "hardsigmoid", "inplace:flag=false", "0 up to -3, 1 from 3 on, x / 6 + 1 / 2 between.")
activation("Hardtanh", "hardtanh", "min_val:num=-1.0, max_val:num=1.0, inplace:flag=false",
  "min(max(x, min_val), max_val).")
activation("Hardswish", "hardswish", "inplace:flag=false", "x hardsigmoid(x).  arXiv:1905.02244.")
activation("Hardshrink", "hardshrink", "lambd:num=0.5", "0 where |x| <= lambd, else x.")
activation("Softshrink", "softshrink", "lambd:num=0.5", "0 where |x| <= lambd, else x moved by lambd towards 0.")
activation("Tanhshrink", "tanhshrink", "", "x - tanh(x).")
activation("LogSigmoid", "logsigmoid", "", "log(1 / (1 + e^-x)).")
activation("Threshold", "threshold", "threshold:num, value:num, inplace:flag=false",
  "x where x > threshold, else value.", "0.1, 20")
activation("GLU", "glu", "dim:int=-1",
  "a sigmoid(b), a and b being the halves of the input along dim.  arXiv:1612.08083.")
activation("Maxout", "maxout", "pieces:size, dim:int=-1",
  "The largest of each `pieces` neighbours along dim, which becomes so many times shorter.  arXiv:1302.4389.", "2")
activation("Softmax", "softmax", "dim:int=-1", "e^x_i / sum_j e^x_j along dim.")
activation("Softmin", "softmin", "dim:int=-1", "e^-x_i / sum_j e^-x_j along dim.")
activation("LogSoftmax", "log_softmax", "dim:int=-1", "log(softmax(x)) along dim.")

---------------------------------------------------------------- with a parameter, with random slopes

---@class nnlua.PReLU : nnlua.Module
local PReLU, read_prelu = define("PReLU", "num_parameters:size=1, init:num=0.25",
  "x for x > 0, else a x with a learned slope a: one, or one for each channel (dimension 2).  arXiv:1502.01852.",
  "nn.PReLU()(nn.randn(3))")
activations.PReLU = PReLU

function PReLU:init(...)
  local count, start = read_prelu(...)
  self.num_parameters = count
  self.weight = Module.Parameter(init.constant_(native.empty(count), start))
end

function PReLU:forward(input) return native.prelu(input, self.weight) end
function PReLU:extra_repr() return "num_parameters=" .. self.num_parameters end

---@class nnlua.RReLU : nnlua.Module
local RReLU, read_rrelu = define("RReLU", "lower:num=0.125, upper:num=0.3333333333333333, inplace:flag=false",
  "x for x > 0, else a x; in training a is drawn from [lower, upper) for each element, else it is their mean.  "
  .. "arXiv:1505.00853.", "nn.RReLU()(nn.randn(3))")
activations.RReLU = RReLU

function RReLU:init(...) self.lower, self.upper, self.inplace = read_rrelu(...) end

function RReLU:forward(input)
  local result = native.rrelu(input, self.lower, self.upper, self.training)
  return self.inplace and input:copy_(result) or result
end

function RReLU:extra_repr() return ("lower=%s, upper=%s"):format(self.lower, self.upper) end

return activations
