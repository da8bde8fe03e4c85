--- Convolutions.
local Module = require "nnlua.module"
local define = require "nnlua.define"
local init = require "nnlua.initializers"
local native = require "nnlua.native"

local convolution = {}
local raise, Parameter = native.raise, Module.Parameter

-- One value for each of the dimensions: 3 -> {3, 3}.
local function each(value, dims)
  if type(value) == "table" then return value end
  local list = {}
  for d = 1, dims do list[d] = value end
  return list
end

local function all_are(list, value)
  for _, v in ipairs(list) do
    if v ~= value then return false end
  end
  return true
end

local function tuple(list) return ("(%s%s)"):format(table.concat(list, ", "), #list == 1 and "," or "") end

-- What pad() takes for the other padding modes: {before, behind} from the last dimension on.
local function pad_list(self)
  local list = {}
  for d = #self.kernel_size, 1, -1 do
    local before, both = 0, 0
    if self.padding == "same" then
      both = self.dilation[d] * (self.kernel_size[d] - 1)
      before = both // 2
    elseif self.padding ~= "valid" then
      before, both = self.padding[d], 2 * self.padding[d]
    end
    list[#list + 1] = before
    list[#list + 1] = both - before
  end
  return list
end

local function check(name, self)
  local groups = self.groups
  if groups < 1 then raise(("%s: groups must be 1 or more, got %d"):format(name, groups)) end
  for _, field in ipairs {"in_channels", "out_channels"} do
    if self[field] % groups ~= 0 then
      raise(("%s: groups (%d) must divide %s (%d)"):format(name, groups, field, self[field]))
    end
  end
  for _, field in ipairs {"kernel_size", "stride", "dilation"} do
    for _, value in ipairs(self[field]) do
      if value < 1 then raise(("%s: %s must be 1 or more, got %d"):format(name, field, value)) end
    end
  end
  if self.padding == "same" and not all_are(self.stride, 1) then
    raise(('%s: padding "same" needs a stride of 1, got %s'):format(name, tuple(self.stride)))
  end
end

-- Conv1d, Conv2d, Conv3d: `dims` sizes of places, `places` what the input is called.
local function make(dims, places, example)
  local name, f = ("Conv%dd"):format(dims), native[("conv%dd"):format(dims)]
  local class, read = define(name,
    (("in_channels:size, out_channels:size, kernel_size:size[N], stride:size[N]=1, padding:size|{valid|same}[N]=0, "
      .. "dilation:size[N]=1, groups:size=1, bias:flag=true, padding_mode:{zeros|reflect|replicate|circular}=zeros")
      :gsub("N", dims)),
    "Convolves [N x] in_channels x " .. places .. " with a weight of out_channels x in_channels / groups x kernel_size "
    .. "and adds a bias.  padding is added on both sides; \"valid\" is none, \"same\" keeps the size (of stride 1); "
    .. "padding_mode says with what.  groups = in_channels is a depthwise convolution.  Weight and bias start uniform "
    .. "in [-k, k), k = 1 / sqrt(in_channels / groups * product of kernel_size).", example)

  function class:init(...)
    local inputs, outputs, kernel, stride, padding, dilation, groups, bias, mode = read(...)
    self.in_channels, self.out_channels, self.groups, self.padding_mode = inputs, outputs, groups, mode
    self.kernel_size, self.stride, self.dilation = each(kernel, dims), each(stride, dims), each(dilation, dims)
    self.padding = type(padding) == "string" and padding or each(padding, dims)
    check(name, self)
    local weight = native.empty(outputs, inputs // groups, table.unpack(self.kernel_size))
    self.weight = Parameter(init.kaiming_uniform_(weight, math.sqrt(5)))
    if not bias then return end
    local fan_in = inputs // groups
    for _, size in ipairs(self.kernel_size) do fan_in = fan_in * size end
    local bound = fan_in > 0 and 1 / math.sqrt(fan_in) or 0
    self.bias = Parameter(init.uniform_(native.empty(outputs), -bound, bound))
  end

  function class:forward(input)
    if self.padding_mode == "zeros" then
      return f(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
    end
    local padded = native.pad(input, pad_list(self), self.padding_mode)
    return f(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
  end

  function class:extra_repr()
    local text = ("%d, %d, kernel_size=%s, stride=%s"):format(self.in_channels, self.out_channels,
      tuple(self.kernel_size), tuple(self.stride))
    if type(self.padding) == "string" then
      text = text .. ", padding=" .. self.padding
    elseif not all_are(self.padding, 0) then
      text = text .. ", padding=" .. tuple(self.padding)
    end
    if not all_are(self.dilation, 1) then text = text .. ", dilation=" .. tuple(self.dilation) end
    if self.groups ~= 1 then text = text .. ", groups=" .. self.groups end
    if not self.bias then text = text .. ", bias=false" end
    if self.padding_mode ~= "zeros" then text = text .. ", padding_mode=" .. self.padding_mode end
    return text
  end

  -- Floating-point operations of a call, for summary().
  function class:flops(output)
    local taps = self.in_channels // self.groups
    for _, size in ipairs(self.kernel_size) do taps = taps * size end
    return output:numel() * (2 * taps - 1 + (self.bias and 1 or 0))
  end

  return class
end

---@class nnlua.Conv1d : nnlua.Module
---@field weight nnlua.Tensor
---@field bias nnlua.Tensor?
---@overload fun(inputs: integer, outputs: integer, kernel_size: integer|integer[], options: table?): nnlua.Conv1d
convolution.Conv1d = make(1, "length", "nn.Conv1d(2, 4, 3, {padding = 1})(nn.randn(8, 2, 20))")

---@class nnlua.Conv2d : nnlua.Module
---@field weight nnlua.Tensor
---@field bias nnlua.Tensor?
---@overload fun(inputs: integer, outputs: integer, kernel_size: integer|integer[], options: table?): nnlua.Conv2d
convolution.Conv2d = make(2, "height x width", "nn.Conv2d(1, 16, 3, {padding = 1})(nn.randn(8, 1, 28, 28))")

---@class nnlua.Conv3d : nnlua.Module
---@field weight nnlua.Tensor
---@field bias nnlua.Tensor?
---@overload fun(inputs: integer, outputs: integer, kernel_size: integer|integer[], options: table?): nnlua.Conv3d
convolution.Conv3d = make(3, "depth x height x width", "nn.Conv3d(1, 4, 3)(nn.randn(2, 1, 8, 8, 8))")

return convolution
