--- nn.utils: gradients and parameters as a whole.
local args = require "nnlua.args"
local docs = require "nnlua.docs"
local native = require "nnlua.native"
local tree = require "nnlua.tree"

local utils = {}
local raise = native.raise
local clip_grad_norm = native.op "clip_grad_norm"

local function list_of(name, parameters)
  if native.is_tensor(parameters) then return {parameters} end
  if tree.is_module(parameters) then
    raise(("%s: parameters must be a list of tensors, got a %s; pass net:parameters()"):format(name,
      parameters.__name))
  end
  if type(parameters) ~= "table" then
    raise(("%s: parameters must be a list of tensors, as net:parameters() gives, got %s"):format(name,
      args.describe(parameters)))
  end
  args.is_options(name, parameters, false) -- a mixture is an error
  for i, p in ipairs(parameters) do
    if not native.is_tensor(p) then
      raise(("%s: parameter %d must be a tensor, got %s"):format(name, i, args.describe(p)))
    end
  end
  return parameters
end

-- The gradients that there are, each with memory of its own that can be changed in place.
local function gradients(parameters)
  local grads = {}
  for i = 1, #parameters do
    local p = parameters[i]
    local grad = p.grad
    if grad and not grad:is_contiguous() then
      p.grad = grad:contiguous()
      grad = p.grad
    end
    grads[#grads + 1] = grad
  end
  return grads
end

local clip_signature = "parameters:any, max_norm:num, norm_type:num=2.0, error_if_nonfinite:flag=false"
local read_clip = args.reader("clip_grad_norm_", clip_signature)

--- Scales all gradients together so that their norm is at most max_norm; returns the norm before.
---@param parameters nnlua.Tensor[]
---@param max_norm number
---@param norm_type number? 2; math.huge for the largest element
---@return nnlua.Tensor
function utils.clip_grad_norm_(parameters, max_norm, norm_type, ...)
  local error_if_nonfinite
  if norm_type ~= nil or select("#", ...) > 0 or type(max_norm) ~= "number" then
    parameters, max_norm, norm_type, error_if_nonfinite = read_clip(parameters, max_norm, norm_type, ...)
  end
  local grads = gradients(list_of("clip_grad_norm_", parameters))
  return clip_grad_norm(grads, max_norm, norm_type or 2, error_if_nonfinite)
end
docs.add(utils.clip_grad_norm_, "utils.clip_grad_norm_", clip_signature,
  "Scales all gradients together so that their norm is at most max_norm, and returns the norm before.  "
  .. "arXiv:1211.5063.", "nn.utils.clip_grad_norm_(net:parameters(), 1)")

local value_signature = "parameters:any, clip_value:num"
local read_value = args.reader("clip_grad_value_", value_signature)

--- Brings every element of the gradients into [-clip_value, clip_value].
---@param ... any parameters, clip_value
function utils.clip_grad_value_(...)
  local parameters, limit = read_value(...)
  for _, grad in ipairs(gradients(list_of("clip_grad_value_", parameters))) do grad:clamp_(-limit, limit) end
end
docs.add(utils.clip_grad_value_, "utils.clip_grad_value_", value_signature,
  "Brings every element of the gradients into [-clip_value, clip_value].")

--- All parameters as one vector.
---@param parameters nnlua.Tensor[]
---@return nnlua.Tensor
function utils.parameters_to_vector(parameters, ...)
  args.at_most("parameters_to_vector", 1, parameters, ...)
  local flat = {}
  for i, p in ipairs(list_of("parameters_to_vector", parameters)) do flat[i] = p:reshape(-1) end
  return native.cat(flat, 1)
end
docs.add(utils.parameters_to_vector, "utils.parameters_to_vector", "parameters:any",
  "All parameters, one behind the other, as a vector.")

--- Writes a vector's elements into the parameters.
---@param vector nnlua.Tensor
---@param parameters nnlua.Tensor[]
function utils.vector_to_parameters(vector, parameters, ...)
  args.at_most("vector_to_parameters", 2, vector, parameters, ...)
  if not native.is_tensor(vector) then
    raise("vector_to_parameters: vector must be a tensor, got " .. args.describe(vector))
  end
  local total, from = 0, 1
  for _, p in ipairs(list_of("vector_to_parameters", parameters)) do total = total + p:numel() end
  if vector:dim() ~= 1 or vector:numel() ~= total then
    raise(("vector_to_parameters: vector is %s, but the parameters have %d elements"):format(tostring(vector.shape),
      total))
  end
  for _, p in ipairs(parameters) do
    p:detach():copy_(vector:detach():narrow(1, from, p:numel()):reshape(p.shape))
    from = from + p:numel()
  end
end
docs.add(utils.vector_to_parameters, "utils.vector_to_parameters", "vector:tensor, parameters:any",
  "Writes a vector's elements into the parameters, one behind the other.")

return utils
