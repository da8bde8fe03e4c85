--- Batch normalisation layers.
local Module = require "nnlua.module"
local define = require "nnlua.define"
local native = require "nnlua.native"

local layers = {}
local raise, Parameter, batch_norm = native.raise, Module.Parameter, native.batch_norm

-- The statistics as they are before the first batch.
local function reset_running_stats(self)
  if not self.track_running_stats then return end
  self.running_mean:zero_()
  self.running_var:fill_(1)
  self.num_batches_tracked:zero_()
end

local function make(name, least, most, form)
  local class, read = define(name,
    "num_features:size, eps:num=1e-5, momentum:num=0.1, affine:flag=true, track_running_stats:flag=true",
    ("(x - mean) / sqrt(var + eps) * weight + bias for every channel of %s.  In training mean and variance are the "
      .. "batch's, and running ones move by momentum (false: they are the mean over all batches) towards them; in "
      .. "evaluation the running ones are used, or the batch's without track_running_stats.  Ioffe and Szegedy, "
      .. "arXiv:1502.03167."):format(form), ("nn.%s(3)(nn.randn(8, 3%s))"):format(name, (", 4"):rep(most - 2)))

  function class:init(...)
    local features, eps, momentum, affine, track = read(...)
    self.num_features, self.eps, self.momentum = features, eps, momentum
    self.affine, self.track_running_stats = affine, track
    if affine then
      self.weight = Parameter(native.ones(features))
      self.bias = Parameter(native.zeros(features))
    end
    if track then
      self:register_buffer("running_mean", native.zeros(features))
      self:register_buffer("running_var", native.ones(features))
      self:register_buffer("num_batches_tracked", native.zeros({}, {dtype = "i64"}))
    end
  end

  class.reset_running_stats = reset_running_stats

  function class:forward(input)
    local dims = input:dim()
    if dims < least or dims > most then
      raise(("input (%s) must have %s dimensions, %s"):format(tostring(input.shape),
        least == most and least or least .. " or " .. most, form))
    end
    local mean, var = self.running_mean, self.running_var
    if not self.training and mean then
      return batch_norm(input, mean, var, self.weight, self.bias, false, 0, self.eps)
    end
    if native.recomputing() then mean, var = nil, nil end -- this batch was counted
    local momentum, batches = self.momentum, mean and self.num_batches_tracked
    return batch_norm(input, mean, var, self.weight, self.bias, true, momentum or 0, self.eps, batches,
      mean ~= nil and momentum == nil)
  end

  function class:extra_repr()
    return ("%d, eps=%s, momentum=%s, affine=%s, track_running_stats=%s"):format(self.num_features, self.eps,
      self.momentum or false, self.affine, self.track_running_stats)
  end

  function class:flops(output) return output:numel() * 2 end -- luacheck: ignore self

  layers[name] = class
end

make("BatchNorm1d", 2, 3, "batch x channels, or batch x channels x length")
make("BatchNorm2d", 4, 4, "batch x channels x height x width")
make("BatchNorm3d", 5, 5, "batch x channels x depth x height x width")

return layers
