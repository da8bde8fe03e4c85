--- nn.init: fills tensors with torch's initial values.  Each changes its tensor in place, outside of any graph, and
--- returns it.
local args = require "nnlua.args"
local docs = require "nnlua.docs"
local native = require "nnlua.native"

local init = {}
local raise = native.raise

local function define(name, signature, doc, f)
  local read = args.reader(name, signature)
  init[name] = function(...) return f(read(...)) end
  docs.add(init[name], "init." .. name, signature, doc)
end

-- An in-place method on the tensor's memory: the leaf's gradient flag does not matter.
local function change(tensor, method, ...)
  local memory = tensor:detach()
  memory[method](memory, ...)
  return tensor
end

define("uniform_", "tensor:tensor, a:num=0, b:num=1", "Uniform in [a, b).",
  function(tensor, a, b) return change(tensor, "uniform_", a, b) end)

define("normal_", "tensor:tensor, mean:num=0, std:num=1", "Normal with the given mean and standard deviation.",
  function(tensor, mean, std) return change(tensor, "normal_", mean, std) end)

define("constant_", "tensor:tensor, val:num", "Every element is val.",
  function(tensor, value) return change(tensor, "fill_", value) end)

define("ones_", "tensor:tensor", "Every element is 1.", function(tensor) return change(tensor, "fill_", 1) end)
define("zeros_", "tensor:tensor", "Every element is 0.", function(tensor) return change(tensor, "fill_", 0) end)

local function need_dims(name, tensor, dims)
  if tensor:dim() ~= dims then
    raise(("%s: tensor must have %d dimensions, got %s"):format(name, dims, tostring(tensor.shape)))
  end
end

define("eye_", "tensor:tensor", "The identity matrix; the tensor has two dimensions.", function(tensor)
  need_dims("eye_", tensor, 2)
  return change(tensor, "copy_", native.eye(tensor:size(1), tensor:size(2), {dtype = tensor.dtype}))
end)

---------------------------------------------------------------- scaled by fans

-- Inputs and outputs that meet in an element of the result, as torch counts them.
local function fans(name, tensor)
  if tensor:dim() < 2 then
    raise(("%s: fan in and fan out need a tensor of at least 2 dimensions, got %s"):format(name,
      tostring(tensor.shape)))
  end
  local field = 1
  for d = 3, tensor:dim() do field = field * tensor:size(d) end
  return tensor:size(2) * field, tensor:size(1) * field
end

local gains = {
  linear = 1, conv1d = 1, conv2d = 1, conv3d = 1, conv_transpose1d = 1, conv_transpose2d = 1, conv_transpose3d = 1,
  sigmoid = 1, tanh = 5 / 3, relu = math.sqrt(2), selu = 3 / 4,
}

local function gain_of(nonlinearity, param)
  if nonlinearity == "leaky_relu" then return math.sqrt(2 / (1 + (param or 0.01) ^ 2)) end
  if gains[nonlinearity] then return gains[nonlinearity] end
  local names = {"leaky_relu"}
  for name in pairs(gains) do names[#names + 1] = name end
  table.sort(names)
  raise("calculate_gain: " .. args.unknown("nonlinearity", nonlinearity, names))
end

define("calculate_gain", "nonlinearity:string, param:num?",
  "The factor by which a layer before this nonlinearity scales its weights: 1 for linear and sigmoid, 5/3 for tanh, "
  .. "sqrt(2) for relu, sqrt(2 / (1 + slope^2)) for leaky_relu (param, 0.01), 3/4 for selu.", gain_of)

define("xavier_uniform_", "tensor:tensor, gain:num=1",
  "Uniform in [-a, a), a = gain sqrt(6 / (fan_in + fan_out)).  Glorot and Bengio, AISTATS 2010.",
  function(tensor, gain)
    local fan_in, fan_out = fans("xavier_uniform_", tensor)
    local bound = gain * math.sqrt(6 / (fan_in + fan_out))
    return change(tensor, "uniform_", -bound, bound)
  end)

define("xavier_normal_", "tensor:tensor, gain:num=1",
  "Normal with standard deviation gain sqrt(2 / (fan_in + fan_out)).  Glorot and Bengio, AISTATS 2010.",
  function(tensor, gain)
    local fan_in, fan_out = fans("xavier_normal_", tensor)
    return change(tensor, "normal_", 0, gain * math.sqrt(2 / (fan_in + fan_out)))
  end)

local function kaiming_std(name, tensor, a, mode, nonlinearity)
  local fan_in, fan_out = fans(name, tensor)
  local fan = mode == "fan_in" and fan_in or fan_out
  return fan > 0 and gain_of(nonlinearity, a) / math.sqrt(fan) or 0
end

local kaiming = "tensor:tensor, a:num=0, mode:{fan_in|fan_out}=fan_in, nonlinearity:string=leaky_relu"

define("kaiming_uniform_", kaiming,
  "Uniform in [-b, b), b = gain sqrt(3 / fan), the gain being that of the nonlinearity (a: leaky_relu's slope).  "
  .. "He et al., arXiv:1502.01852.",
  function(tensor, a, mode, nonlinearity)
    local bound = math.sqrt(3) * kaiming_std("kaiming_uniform_", tensor, a, mode, nonlinearity)
    return change(tensor, "uniform_", -bound, bound)
  end)

define("kaiming_normal_", kaiming,
  "Normal with standard deviation gain / sqrt(fan), the gain being that of the nonlinearity (a: leaky_relu's slope).  "
  .. "He et al., arXiv:1502.01852.",
  function(tensor, a, mode, nonlinearity)
    return change(tensor, "normal_", 0, kaiming_std("kaiming_normal_", tensor, a, mode, nonlinearity))
  end)

---------------------------------------------------------------- special ones

-- M. Giles, "Approximating the erfinv function", GPU Computing Gems 2 (2011): a polynomial in w = -log(1 - x^2),
-- then two Newton steps bring it to f64.
local central = {2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503,
  -0.00417768164, 0.246640727, 1.50140941}
local tail = {-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613,
  0.00943887047, 1.00167406, 2.83297682}

local function polynomial(coefficients, w)
  local p = native.full_like(w, coefficients[1])
  for i = 2, #coefficients do p = p * w + coefficients[i] end
  return p
end

local function erfinv(x)
  local w = -((1 - x) * (1 + x)):log()
  local y = x * native.where(w:lt(5), polynomial(central, w - 2.5), polynomial(tail, w:sqrt() - 3))
  for _ = 1, 2 do y = y - (y:erf() - x) * (y * y):exp() * (math.sqrt(math.pi) / 2) end
  return y
end

local function normal_below(x) return native.tensor(x / math.sqrt(2), "f64"):erf():item() end

define("trunc_normal_", "tensor:tensor, mean:num=0, std:num=1, a:num=-2, b:num=2",
  "Normal with the given mean and standard deviation, drawn again where it falls outside of [a, b].",
  function(tensor, mean, std, a, b)
    if a >= b then raise(("trunc_normal_: a must be below b, got %s and %s"):format(a, b)) end
    -- through the inverse of the distribution: erf of a uniform number between the ends' places
    local low, high = normal_below((a - mean) / std), normal_below((b - mean) / std)
    local u = native.zeros(tensor.shape, {dtype = "f64"}):uniform_(low, high)
    local values = (erfinv(u) * (std * math.sqrt(2)) + mean):clamp(a, b)
    return change(tensor, "copy_", values)
  end)

-- The orthonormal factor of a tall matrix, with positive diagonal in the triangular one: each column loses its
-- parts along those before it, twice, because once is not enough (Giraud et al., Numer. Math. 101, 2005).
local function orthonormal(matrix)
  local columns = matrix:size(2)
  local basis = native.zeros_like(matrix)
  for k = 1, columns do
    local v = matrix:select(2, k)
    if k > 1 then
      local before = basis:narrow(2, 1, k - 1)
      for _ = 1, 2 do v = v - before:mv(before:t():mv(v)) end
    end
    basis:select(2, k):copy_(v / v:dot(v):sqrt())
  end
  return basis
end

define("orthogonal_", "tensor:tensor, gain:num=1",
  "A random (semi-)orthogonal matrix times gain; dimensions after the first count as one.  "
  .. "Saxe et al., arXiv:1312.6120.",
  function(tensor, gain)
    if tensor:dim() < 2 then
      raise("orthogonal_: tensor must have at least 2 dimensions, got " .. tostring(tensor.shape))
    end
    if tensor:numel() == 0 then return tensor end
    local rows = tensor:size(1)
    local columns = tensor:numel() // rows
    local drawn = native.zeros(rows, columns, {dtype = "f64"}):normal_()
    local q = rows < columns and orthonormal(drawn:t():contiguous()):t() or orthonormal(drawn)
    return change(tensor, "copy_", (q * gain):contiguous():reshape(tensor.shape))
  end)

define("sparse_", "tensor:tensor, sparsity:num, std:num=0.01",
  "Normal with standard deviation std, and in each column the share `sparsity` of the elements 0.  Martens, ICML 2010.",
  function(tensor, sparsity, std)
    need_dims("sparse_", tensor, 2)
    local rows, columns = tensor:size(1), tensor:size(2)
    local zeros = math.ceil(sparsity * rows)
    local memory = tensor:detach()
    memory:normal_(0, std)
    for column = 1, zeros > 0 and columns or 0 do
      local chosen = native.randperm(rows):narrow(1, 1, zeros)
      memory[{chosen, column}] = 0
    end
    return tensor
  end)

define("dirac_", "tensor:tensor, groups:size=1",
  "A convolution's weight that passes its input channels through: 1 at the kernel's centre where the output channel "
  .. "is the input channel, else 0.",
  function(tensor, groups)
    local dims = tensor:dim()
    if dims < 3 or dims > 5 then
      raise("dirac_: tensor must have 3, 4 or 5 dimensions, got " .. tostring(tensor.shape))
    end
    if groups < 1 or tensor:size(1) % groups ~= 0 then
      raise(("dirac_: %d output channels do not split into %d groups"):format(tensor:size(1), groups))
    end
    local memory = tensor:detach()
    memory:fill_(0)
    local each = tensor:size(1) // groups
    for group = 0, groups - 1 do
      for channel = 1, math.min(each, tensor:size(2)) do
        local place = {group * each + channel, channel}
        for d = 3, dims do place[d] = tensor:size(d) // 2 + 1 end
        memory[place] = 1
      end
    end
    return tensor
  end)

return init
