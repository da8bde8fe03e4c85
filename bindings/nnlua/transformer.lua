--- The layers that transformers are built of: normalisation of each sample by itself, and attention.
local Module = require "nnlua.module"
local args = require "nnlua.args"
local define = require "nnlua.define"
local init = require "nnlua.initializers"
local layers = require "nnlua.layers"
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
  .. "(one, or a list).  eps is the spacing of the type's numbers at 1, if not given.  Zhang and Sennrich, "
  .. "arXiv:1910.07467.", "nn.RMSNorm(64)(nn.randn(8, 10, 64))")
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

---------------------------------------------------------------- attention

---@class nnlua.MultiheadAttention : nnlua.Module
---@field in_proj_weight nnlua.Tensor?
---@field in_proj_bias nnlua.Tensor?
---@field out_proj nnlua.Linear
---@overload fun(embed_dim: integer, num_heads: integer, options: table?): nnlua.MultiheadAttention
local MultiheadAttention, read_attention = define("MultiheadAttention",
  "embed_dim:size, num_heads:size, dropout:num=0.0, bias:flag=true, add_bias_kv:flag=false, add_zero_attn:flag=false, "
  .. "kdim:size?, vdim:size?, batch_first:flag=false",
  "Attention of num_heads heads between linear maps of query, key and value and one of the result: net(query, key, "
  .. "value, {key_padding_mask, need_weights = true, attn_mask, average_attn_weights = true, is_causal = false}) gives "
  .. "the result and the weights, means over the heads unless average_attn_weights is false.  Without weights "
  .. "(need_weights = false) it takes less time and memory.  Tensors are L x N x embed_dim, with batch_first "
  .. "N x L x embed_dim, or L x embed_dim.  In both masks true means: does not take part; numbers are added to the "
  .. "scores.  key_padding_mask: N x S, attn_mask: L x S or N num_heads x L x S.  is_causal is a hint that attn_mask "
  .. "is the causal one.  dropout: of the weights, in training.  add_bias_kv, add_zero_attn: a learned position and "
  .. "one of zeros more in key and value.  kdim, vdim: their features, if not embed_dim.  Vaswani et al., "
  .. "arXiv:1706.03762.",
  "nn.MultiheadAttention(8, 2)(nn.randn(5, 3, 8), nn.randn(6, 3, 8), nn.randn(6, 3, 8))")
transformer.MultiheadAttention = MultiheadAttention

function MultiheadAttention:init(...)
  local width, heads, dropout, bias, bias_kv, zero_attn, kdim, vdim, batch_first = read_attention(...)
  if width == 0 or heads == 0 or width % heads ~= 0 then
    raise(("MultiheadAttention: embed_dim is %d, which num_heads (%d) does not divide"):format(width, heads))
  end
  if not (dropout >= 0 and dropout <= 1) then
    raise(("MultiheadAttention: dropout must be in 0 .. 1, got %s"):format(dropout))
  end
  self.embed_dim, self.num_heads, self.head_dim, self.dropout = width, heads, width // heads, dropout
  self.kdim, self.vdim, self.batch_first, self.add_zero_attn = kdim or width, vdim or width, batch_first, zero_attn
  local function start(...) return Parameter(init.xavier_uniform_(native.empty(...))) end
  if self.kdim == width and self.vdim == width then
    self.in_proj_weight = start(3 * width, width)
  else
    self.q_proj_weight, self.k_proj_weight = start(width, width), start(width, self.kdim)
    self.v_proj_weight = start(width, self.vdim)
  end
  if bias then self.in_proj_bias = zeros {3 * width} end
  if bias_kv then
    self.bias_k = Parameter(init.xavier_normal_(native.empty(1, 1, width)))
    self.bias_v = Parameter(init.xavier_normal_(native.empty(1, 1, width)))
  end
  self.out_proj = layers.Linear(width, width, bias)
  if bias then init.zeros_(self.out_proj.bias) end
end

local linear = native.linear

-- The three maps, with as few products as the inputs allow.
local function projected(self, query, key, value)
  local width, weight, bias = self.embed_dim, self.in_proj_weight, self.in_proj_bias
  if weight and rawequal(query, key) and rawequal(key, value) then
    return linear(query, weight, bias):split(width, -1)
  end
  local w1, w2, w3 = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
  local b1, b2, b3
  if bias then b1, b2, b3 = bias:split(width) end
  if weight and rawequal(key, value) then
    local b23 = bias and bias:narrow(1, width + 1, 2 * width)
    return linear(query, weight:narrow(1, 1, width), b1),
      linear(key, weight:narrow(1, width + 1, 2 * width), b23):split(width, -1)
  end
  if weight then w1, w2, w3 = weight:split(width) end
  return linear(query, w1, b1), linear(key, w2, b2), linear(value, w3, b3)
end

-- One or two positions more: the learned one, and zeros.  x: N x S x E or, without batch_first, S x N x E.
local function lengthened(self, x, learned)
  local dim = self.batch_first and 2 or 1
  local shape = x.shape
  shape[dim] = 1
  local pieces = {x}
  if learned then pieces[#pieces + 1] = learned:expand(shape) end
  if self.add_zero_attn then pieces[#pieces + 1] = native.zeros(shape, {dtype = x.dtype}) end
  return #pieces > 1 and native.cat(pieces, dim) or x
end

-- N x heads x positions x head_dim, without a copy.
local function heads_of(self, x)
  x = x:unflatten(-1, {self.num_heads, self.head_dim})
  if self.batch_first then return x:transpose(2, 3) end
  return x:permute(2, 3, 1, 4)
end

local function need_shape(name, mask, ...)
  local shape = mask.shape
  for _, wanted in ipairs {...} do
    local same = #shape == #wanted
    for d = 1, #wanted do same = same and shape[d] == wanted[d] end
    if same then return end
  end
  local texts = {}
  for i, wanted in ipairs {...} do texts[i] = table.concat(wanted, "x") end
  raise(("%s must be %s, got %s"):format(name, table.concat(texts, " or "), tostring(shape)))
end

-- A mask with `more` columns that take part.
local function widened(mask, more)
  if more == 0 then return mask end
  local shape = mask.shape
  shape[#shape] = more
  return native.cat({mask, native.zeros(shape, {dtype = mask.dtype})}, -1)
end

-- What is added to the scores.
local function numbers(mask, dtype)
  if mask.dtype ~= "bool" then return mask:to(dtype) end
  return native.zeros(mask.shape, {dtype = dtype}):masked_fill(mask, -math.huge)
end

-- Both masks as one that broadcasts to N x heads x L x S: bool (true does not take part), or numbers to add.
local function joined(self, attn_mask, padding, batch, dtype, more)
  if attn_mask then
    attn_mask = widened(attn_mask, more)
    if attn_mask:dim() == 3 then attn_mask = attn_mask:unflatten(1, {batch, self.num_heads}) end
  end
  if padding then padding = widened(padding, more):unsqueeze(2):unsqueeze(2) end
  if not (attn_mask and padding) then
    local one = attn_mask or padding
    return one and one.dtype ~= "bool" and one:to(dtype) or one
  end
  if attn_mask.dtype == "bool" and padding.dtype == "bool" then return attn_mask | padding end
  return numbers(attn_mask, dtype) + numbers(padding, dtype)
end

local read_inputs = args.reader("forward",
  "query:tensor, key:tensor, value:tensor, key_padding_mask:tensor?, need_weights:flag=true, attn_mask:tensor?, "
  .. "average_attn_weights:flag=true, is_causal:flag=false")

local function check_inputs(self, query, key, value)
  local dims = query:dim()
  if dims ~= 2 and dims ~= 3 then
    raise("query must be L x E, or with a batch dimension more, got " .. tostring(query.shape))
  end
  local widths = {query = self.embed_dim, key = self.kdim, value = self.vdim}
  for name, x in pairs {query = query, key = key, value = value} do
    if x:dim() ~= dims then raise(("query is %s, but %s is %s"):format(query.shape, name, x.shape)) end
    if x:size(dims) ~= widths[name] then
      raise(("%s (%s) must have %d features"):format(name, x.shape, widths[name]))
    end
  end
  for d = 1, dims - 1 do
    if key:size(d) ~= value:size(d) then raise(("key is %s, but value is %s"):format(key.shape, value.shape)) end
  end
  local batch = self.batch_first and 1 or 2
  if dims == 3 and key:size(batch) ~= query:size(batch) then
    raise(("query is %s, but key is %s: they differ in the batch"):format(query.shape, key.shape))
  end
end

-- A batch of one.
local function batched(self, x) return x:unsqueeze(self.batch_first and 1 or 2) end

local function weighted(self, q, k, v, mask, dropout)
  local scores = (q * (1 / math.sqrt(self.head_dim))):matmul(k:transpose(-2, -1))
  if mask then scores = mask.dtype == "bool" and scores:masked_fill(mask, -math.huge) or scores + mask end
  local weights = native.dropout(scores:softmax(-1), dropout, dropout > 0)
  return weights:matmul(v), weights
end

function MultiheadAttention:forward(...)
  local query, key, value, padding, need_weights, attn_mask, average, is_causal = read_inputs(...)
  check_inputs(self, query, key, value)
  local single = query:dim() == 2
  if single then
    local same_key, same_value = rawequal(key, query), rawequal(value, key)
    query = batched(self, query)
    key = same_key and query or batched(self, key)
    value = same_value and key or batched(self, value)
    if padding then
      need_shape("key_padding_mask", padding, {key:size(self.batch_first and 2 or 1)})
      padding = padding:unsqueeze(1)
    end
  end
  local first = self.batch_first
  local batch, length = query:size(first and 1 or 2), query:size(first and 2 or 1)
  local positions = key:size(first and 2 or 1)
  if padding then need_shape("key_padding_mask", padding, {batch, positions}) end
  if attn_mask then
    need_shape("attn_mask", attn_mask, {length, positions}, {batch * self.num_heads, length, positions})
  elseif is_causal then
    raise "is_causal is a hint on attn_mask, which is missing"
  end

  local q, k, v = projected(self, query, key, value)
  k, v = lengthened(self, k, self.bias_k), lengthened(self, v, self.bias_v)
  local more = k:size(first and 2 or 1) - positions
  q, k, v = heads_of(self, q), heads_of(self, k), heads_of(self, v)
  -- with positions more at the end the causal mask is another one
  local causal = is_causal and not padding and not need_weights and more == 0
  local mask = not causal and joined(self, attn_mask, padding, batch, q.dtype, more) or nil
  local dropout = self.training and self.dropout or 0
  local out, weights
  if need_weights then
    out, weights = weighted(self, q, k, v, mask, dropout)
    if average then weights = weights:mean(2) end
    if single then weights = weights:squeeze(1) end
  else
    if mask and mask.dtype == "bool" then mask = ~mask end
    out = native.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
  end
  out = first and out:transpose(2, 3) or out:permute(3, 1, 2, 4)
  out = self.out_proj(out:reshape(out:size(1), out:size(2), self.embed_dim))
  if single then out = out:squeeze(first and 1 or 2) end
  return out, weights
end

-- The maps of query, key and value, and two products for each pair of positions; out_proj counts for itself.
function MultiheadAttention:flops(_, query, key, value)
  local positions = query:dim() == 3 and key:size(self.batch_first and 2 or 1) or key:size(1)
  return 2 * self.embed_dim * (query:numel() + key:numel() + value:numel()) + 4 * query:numel() * positions
end

function MultiheadAttention:extra_repr()
  local text = ("%d, %d, dropout=%s"):format(self.embed_dim, self.num_heads, self.dropout)
  return self.batch_first and text .. ", batch_first=true" or text
end

return transformer
