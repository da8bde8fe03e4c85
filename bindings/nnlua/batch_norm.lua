--- Normalisation of channels, by the statistics of a batch or of each sample.
local Module = require "nnlua.module"
local define = require "nnlua.define"
local native = require "nnlua.native"

local layers = {}
local raise, Parameter = native.raise, Module.Parameter
local batch_norm, instance_norm = native.batch_norm, native.instance_norm

-- The statistics as they are before the first batch.
local function reset_running_stats(self)
  if not self.track_running_stats then return end
  self.running_mean:zero_()
  self.running_var:fill_(1)
  self.num_batches_tracked:zero_()
end

-- What both kinds are and hold; read: their arguments.
local function hold(class, read)
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

  function class:extra_repr()
    return ("%d, eps=%s, momentum=%s, affine=%s, track_running_stats=%s"):format(self.num_features, self.eps,
      self.momentum or false, self.affine, self.track_running_stats)
  end

  function class:flops(output) return output:numel() * 2 end -- luacheck: ignore self
end

local function check_dims(input, least, most, form)
  local dims = input:dim()
  if dims < least or dims > most then
    raise(("input (%s) must have %s dimensions, %s"):format(tostring(input.shape),
      least == most and least or least .. " or " .. most, form))
  end
end

local function make(name, least, most, form)
  local class, read = define(name,
    "num_features:size, eps:num=1e-5, momentum:num=0.1, affine:flag=true, track_running_stats:flag=true",
    ("(x - mean) / sqrt(var + eps) * weight + bias for every channel of %s.  In training mean and variance are the "
      .. "batch's, and running ones move by momentum (false: they are the mean over all batches) towards them; in "
      .. "evaluation the running ones are used, or the batch's without track_running_stats.  Ioffe and Szegedy, "
      .. "arXiv:1502.03167."):format(form), ("nn.%s(3)(nn.randn(8, 3%s))"):format(name, (", 4"):rep(most - 2)))
  hold(class, read)

  function class:forward(input)
    check_dims(input, least, most, form)
    local mean, var = self.running_mean, self.running_var
    if not self.training and mean then
      return batch_norm(input, mean, var, self.weight, self.bias, false, 0, self.eps)
    end
    if native.recomputing() then mean, var = nil, nil end -- this batch was counted
    local momentum, batches = self.momentum, mean and self.num_batches_tracked
    return batch_norm(input, mean, var, self.weight, self.bias, true, momentum or 0, self.eps, batches,
      mean ~= nil and momentum == nil)
  end

  layers[name] = class
end

make("BatchNorm1d", 2, 3, "batch x channels, or batch x channels x length")
make("BatchNorm2d", 4, 4, "batch x channels x height x width")
make("BatchNorm3d", 5, 5, "batch x channels x depth x height x width")

---------------------------------------------------------------- each sample for itself

local function make_instance(name, dims, form)
  local class, read = define(name,
    "num_features:size, eps:num=1e-5, momentum:num=0.1, affine:flag=false, track_running_stats:flag=false",
    ("(x - mean) / sqrt(var + eps) for every channel of every sample of batch x %s, or of %s alone; with affine times "
      .. "weight plus bias.  With track_running_stats running ones move by momentum towards the batch's means of mean "
      .. "and variance in training, and are used in evaluation.  Ulyanov et al., arXiv:1607.08022."):format(form, form),
    ("nn.%s(3)(nn.randn(8, 3%s))"):format(name, (", 4"):rep(dims - 1)))
  hold(class, read)

  function class:forward(input)
    check_dims(input, dims, dims + 1, form .. ", or batch x " .. form)
    local mean, var = self.running_mean, self.running_var
    local own = self.training or not mean
    if own and native.recomputing() then mean, var = nil, nil end -- this batch was counted
    local alone = input:dim() == dims
    local output = instance_norm(alone and input:unsqueeze(1) or input, mean, var, self.weight, self.bias, own,
      self.momentum or 0, self.eps)
    return alone and output:squeeze(1) or output
  end

  layers[name] = class
end

make_instance("InstanceNorm1d", 2, "channels x length")
make_instance("InstanceNorm2d", 3, "channels x height x width")
make_instance("InstanceNorm3d", 4, "channels x depth x height x width")

return layers
