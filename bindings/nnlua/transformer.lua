--- The layers that transformers are built of: normalisation of each sample by itself, and attention.
local Module = require "nnlua.module"
local args = require "nnlua.args"
local define = require "nnlua.define"
local init = require "nnlua.initializers"
local native = require "nnlua.native"

local transformer = {}
local raise, Parameter = native.raise, Module.Parameter

---------------------------------------------------------------- normalisation

-- The list of sizes that `normalized_shape` stands for: a size, or a list of them.
local function sizes_of(owner, shape)
  local list = type(shape) == "table" and {table.unpack(shape)} or {shape}
  for i, size in ipairs(list) do
    list[i] = type(size) == "number" and math.tointeger(size)
    if not list[i] or list[i] < 0 then list = {} end
  end
  if #list == 0 then
    raise(("%s: normalized_shape must be a size or a list of sizes, got %s"):format(owner, args.describe(shape)))
  end
  return list
end

local function ones(shape) return Parameter(init.ones_(native.empty(shape))) end
local function zeros(shape) return Parameter(init.zeros_(native.empty(shape))) end

---@class nnlua.LayerNorm : nnlua.Module
---@field weight nnlua.Tensor?
---@field bias nnlua.Tensor?
---@overload fun(normalized_shape: integer|integer[], options: table?): nnlua.LayerNorm
local LayerNorm, read_layer_norm = define("LayerNorm",
  "normalized_shape:any, eps:num=1e-05, elementwise_affine:flag=true, bias:flag=true",
  "(x - mean) / sqrt(var + eps) weight + bias, mean and variance taken over the last dimensions, whose sizes are "
  .. "normalized_shape (one, or a list).  weight starts as 1, bias as 0; elementwise_affine = false: there is neither."
  .. "  Ba, Kiros and Hinton, arXiv:1607.06450.", "nn.LayerNorm(64)(nn.randn(8, 10, 64))")
transformer.LayerNorm = LayerNorm

function LayerNorm:init(...)
  local shape, eps, affine, bias = read_layer_norm(...)
  self.normalized_shape, self.eps, self.elementwise_affine = sizes_of("LayerNorm", shape), eps, affine
  if affine then self.weight = ones(self.normalized_shape) end
  if affine and bias then self.bias = zeros(self.normalized_shape) end
end

function LayerNorm:forward(input)
  return native.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)
end

local function shape_text(shape) return "{" .. table.concat(shape, ", ") .. "}" end

function LayerNorm:extra_repr()
  return ("%s, eps=%s, elementwise_affine=%s, bias=%s"):format(shape_text(self.normalized_shape), self.eps,
    self.elementwise_affine, self.bias ~= nil)
end

function LayerNorm:flops(output) return output:numel() * (5 + (self.weight and 1 or 0) + (self.bias and 1 or 0)) end

---@class nnlua.RMSNorm : nnlua.Module
---@field weight nnlua.Tensor?
---@overload fun(normalized_shape: integer|integer[], options: table?): nnlua.RMSNorm
local RMSNorm, read_rms_norm = define("RMSNorm", "normalized_shape:any, eps:num?, elementwise_affine:flag=true",
  "x / sqrt(mean(x^2) + eps) weight, the mean taken over the last dimensions, whose sizes are normalized_shape "
  .. "(one, or a list).  eps is the spacing of the type's numbers at 1, if not given.  Zhang and Sennrich, arXiv:1910.07467.",
  "nn.RMSNorm(64)(nn.randn(8, 10, 64))")
transformer.RMSNorm = RMSNorm

function RMSNorm:init(...)
  local shape, eps, affine = read_rms_norm(...)
  self.normalized_shape, self.eps, self.elementwise_affine = sizes_of("RMSNorm", shape), eps, affine
  if affine then self.weight = ones(self.normalized_shape) end
end

function RMSNorm:forward(input) return native.rms_norm(input, self.normalized_shape, self.weight, self.eps) end

function RMSNorm:extra_repr()
  return ("%s, eps=%s, elementwise_affine=%s"):format(shape_text(self.normalized_shape), self.eps,
    self.elementwise_affine)
end

function RMSNorm:flops(output) return output:numel() * (3 + (self.weight and 1 or 0)) end

---@class nnlua.GroupNorm : nnlua.Module
---@field weight nnlua.Tensor?
---@field bias nnlua.Tensor?
---@overload fun(num_groups: integer, num_channels: integer, options: table?): nnlua.GroupNorm
local GroupNorm, read_group_norm = define("GroupNorm",
  "num_groups:size, num_channels:size, eps:num=1e-05, affine:flag=true",
  "(x - mean) / sqrt(var + eps) weight + bias for input N x C x ..., mean and variance taken over each of num_groups "
  .. "groups of channels in each sample.  weight starts as 1, bias as 0, an element for each channel.  Wu and He, "
  .. "arXiv:1803.08494.", "nn.GroupNorm(3, 6)(nn.randn(2, 6, 10, 10))")
transformer.GroupNorm = GroupNorm

function GroupNorm:init(...)
  local groups, channels, eps, affine = read_group_norm(...)
  if groups == 0 or channels % groups ~= 0 then
    raise(("GroupNorm: num_channels is %d, which num_groups (%d) does not divide"):format(channels, groups))
  end
  self.num_groups, self.num_channels, self.eps, self.affine = groups, channels, eps, affine
  if affine then self.weight, self.bias = ones {channels}, zeros {channels} end
end

function GroupNorm:forward(input)
  return native.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
end

function GroupNorm:extra_repr()
  return ("%d, %d, eps=%s, affine=%s"):format(self.num_groups, self.num_channels, self.eps, self.affine)
end

function GroupNorm:flops(output) return output:numel() * (5 + (self.affine and 2 or 0)) end

return transformer
