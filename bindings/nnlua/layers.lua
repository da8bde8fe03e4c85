--- Containers and the layers that are no activation.
local Module = require "nnlua.module"
local args = require "nnlua.args"
local define = require "nnlua.define"
local init = require "nnlua.initializers"
local native = require "nnlua.native"
local tree = require "nnlua.tree"

local layers = {}
local raise, Parameter = native.raise, Module.Parameter

---------------------------------------------------------------- containers

-- Modules given one by one or as a list.
local function put_all(self, ...)
  local list = {...}
  local count = select("#", ...)
  if count == 1 and type(list[1]) == "table" and getmetatable(list[1]) == nil then
    list, count = list[1], #list[1]
    if args.is_options(self.__name, list, false) then
      raise(("%s: argument 1 must be a list of modules, got names"):format(self.__name))
    end
  end
  for i = 1, count do
    local module = list[i]
    if type(module) ~= "table" or not module.is_module or rawget(module, "is_module") then
      raise(("%s: argument %d must be a module, got %s"):format(self.__name, i, rawget(type(module) == "table"
        and module or {}, "is_module") and "the class " .. module.__name .. "; make one of it, as in nn."
        .. module.__name .. "(...)" or args.describe(module)))
    end
    self[i] = module
  end
end

-- Subscripts of a container: negative ones count from the end; behind the end is nil, where ipairs stops.
local function count_from_end(class)
  function class.__index(self, key)
    if math.type(key) ~= "integer" or key > 0 then return class[key] end
    local place = #self + 1 + key
    if key == 0 or place < 1 then
      raise(("%s: position %d is out of range: there are positions 1 to %d (or -%d to -1)"):format(class.__name, key,
        #self, #self))
    end
    return rawget(self, place)
  end
end

---@class nnlua.Sequential : nnlua.Module
---@overload fun(...: nnlua.Module): nnlua.Sequential
layers.Sequential = define("Sequential", "modules:any",
  "Applies modules one after the other; each gets the first result of the one before.  #net, net[2] and "
  .. "net:append(module) work as expected.", "nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1))")
local Sequential = layers.Sequential

count_from_end(Sequential)
Sequential.init = put_all

function Sequential:forward(input)
  for i = 1, #self do input = self[i](input) end
  return input
end

--- Adds a module at the end.
---@param module nnlua.Module
function Sequential:append(module, ...)
  args.at_most("append", 1, module, ...)
  if type(module) ~= "table" or not module.is_module then
    raise("append: argument 1 must be a module, got " .. args.describe(module))
  end
  self[#self + 1] = module
  return self
end

---@class nnlua.ModuleList : nnlua.Module
---@overload fun(modules: nnlua.Module[]): nnlua.ModuleList
layers.ModuleList = define("ModuleList", "modules:any?",
  "A list of modules that a module holds; a plain Lua list in a field does as well.",
  "nn.ModuleList{nn.Linear(2, 3), nn.Linear(3, 1)}")
local ModuleList = layers.ModuleList
count_from_end(ModuleList)
ModuleList.init = put_all
ModuleList.append = Sequential.append

---@class nnlua.ModuleDict : nnlua.Module
---@overload fun(modules: table<string, nnlua.Module>): nnlua.ModuleDict
layers.ModuleDict = define("ModuleDict", "modules:any?",
  "Modules by name, in the order in which they were written; a plain keyed table in a field does as well.",
  "nn.ModuleDict{relu = nn.ReLU(), tanh = nn.Tanh()}")
local ModuleDict = layers.ModuleDict

function ModuleDict:init(modules)
  for name, module in pairs(modules or {}) do
    if type(name) ~= "string" or type(module) ~= "table" or not module.is_module then
      raise(("ModuleDict: '%s' must be a name with a module, got %s"):format(tostring(name), args.describe(module)))
    end
  end
  for _, name in ipairs(tree.keys_of(modules or {})) do self[name] = modules[name] end
end

---------------------------------------------------------------- linear maps

-- Writes into a parameter that is being made.
local function uniform(tensor, bound) return init.uniform_(tensor, -bound, bound) end

---@class nnlua.Linear : nnlua.Module
---@field weight nnlua.Tensor
---@field bias nnlua.Tensor?
---@overload fun(in_features: integer, out_features: integer, options: {bias: boolean?}?): nnlua.Linear
local Linear, read_linear = define("Linear", "in_features:size, out_features:size, bias:flag=true",
  "y = x W^T + b, W: out_features x in_features, b: out_features.  Both start uniform in [-k, k), "
  .. "k = 1 / sqrt(in_features).", "nn.Linear(784, 10)(nn.randn(64, 784))")
layers.Linear = Linear

function Linear:init(...)
  local inputs, outputs, bias = read_linear(...)
  self.in_features, self.out_features = inputs, outputs
  local bound = inputs > 0 and 1 / math.sqrt(inputs) or 0
  self.weight = Parameter(uniform(native.empty(outputs, inputs), bound))
  if bias then self.bias = Parameter(uniform(native.empty(outputs), bound)) end
end

local linear = native.linear
function Linear:forward(input) return linear(input, self.weight, self.bias) end

function Linear:extra_repr()
  return ("in_features=%d, out_features=%d, bias=%s"):format(self.in_features, self.out_features,
    tostring(self.bias ~= nil))
end

-- Floating-point operations of a call, for summary().
function Linear:flops(output) return output:numel() * (2 * self.in_features - 1 + (self.bias and 1 or 0)) end

---@class nnlua.Bilinear : nnlua.Module
---@overload fun(in1_features: integer, in2_features: integer, out_features: integer, options: table?): nnlua.Bilinear
local Bilinear, read_bilinear = define("Bilinear",
  "in1_features:size, in2_features:size, out_features:size, bias:flag=true",
  "y_k = x1^T W_k x2 + b_k.  All start uniform in [-s, s), s = 1 / sqrt(in1_features).",
  "nn.Bilinear(4, 5, 3)(nn.randn(8, 4), nn.randn(8, 5))")
layers.Bilinear = Bilinear

function Bilinear:init(...)
  local first, second, outputs, bias = read_bilinear(...)
  if first == 0 then raise "Bilinear: in1_features must be 1 or more, got 0" end
  self.in1_features, self.in2_features, self.out_features = first, second, outputs
  local bound = 1 / math.sqrt(first)
  self.weight = Parameter(uniform(native.empty(outputs, first, second), bound))
  if bias then self.bias = Parameter(uniform(native.empty(outputs), bound)) end
end

function Bilinear:forward(input1, input2) return native.bilinear(input1, input2, self.weight, self.bias) end

function Bilinear:extra_repr()
  return ("in1_features=%d, in2_features=%d, out_features=%d, bias=%s"):format(self.in1_features, self.in2_features,
    self.out_features, tostring(self.bias ~= nil))
end

function Bilinear:flops(output) return output:numel() * 2 * self.in1_features * (self.in2_features + 1) end

---------------------------------------------------------------- shapes

layers.Identity = define("Identity", "", "The input itself; arguments of the constructor are ignored.")
function layers.Identity:init() end -- luacheck: ignore self
function layers.Identity:forward(input) return input end -- luacheck: ignore self
function layers.Identity:flops() return 0 end -- luacheck: ignore self

---@class nnlua.Flatten : nnlua.Module
local Flatten, read_flatten = define("Flatten", "start_dim:int=2, end_dim:int=-1",
  "Makes the dimensions from start_dim to end_dim one.", "nn.Flatten()(nn.zeros(64, 1, 28, 28))")
layers.Flatten = Flatten

function Flatten:init(...) self.start_dim, self.end_dim = read_flatten(...) end
function Flatten:forward(input) return native.flatten(input, self.start_dim, self.end_dim) end
function Flatten:extra_repr() return ("start_dim=%d, end_dim=%d"):format(self.start_dim, self.end_dim) end
function Flatten:flops() return 0 end -- luacheck: ignore self

---@class nnlua.Unflatten : nnlua.Module
local Unflatten, read_unflatten = define("Unflatten", "dim:int, unflattened_size:sizes",
  "Makes one dimension several, of the given sizes; -1 infers one.", "nn.Unflatten(2, {3, 4})(nn.zeros(2, 12))")
layers.Unflatten = Unflatten

function Unflatten:init(dim, ...)
  if type((...)) == "number" then -- sizes one by one
    self.dim, self.unflattened_size = read_unflatten(dim, {...})
  else
    self.dim, self.unflattened_size = read_unflatten(dim, ...)
  end
end
function Unflatten:forward(input) return native.unflatten(input, self.dim, self.unflattened_size) end
function Unflatten:extra_repr()
  return ("dim=%d, unflattened_size={%s}"):format(self.dim, table.concat(self.unflattened_size, ", "))
end
function Unflatten:flops() return 0 end -- luacheck: ignore self

---------------------------------------------------------------- embedding, dropout

---@class nnlua.Embedding : nnlua.Module
---@overload fun(num_embeddings: integer, embedding_dim: integer, options: {padding_idx: integer?}?): nnlua.Embedding
local Embedding, read_embedding = define("Embedding",
  "num_embeddings:size, embedding_dim:size, padding_idx:int?",
  "A table of vectors that are looked up by positions 1 .. num_embeddings.  They start standard normal; the one at "
  .. "padding_idx starts as 0 and gets no gradient.", "nn.Embedding(1000, 64)(nn.tensor({1, 5, 1000}, \"i64\"))")
layers.Embedding = Embedding

function Embedding:init(...)
  local count, width, padding = read_embedding(...)
  if padding and (padding == 0 or padding > count or padding < -count) then
    raise(("Embedding: padding_idx is %d, but positions are 1 to %d (or -%d to -1)"):format(padding, count, count))
  end
  if padding and padding < 0 then padding = count + padding + 1 end
  self.num_embeddings, self.embedding_dim, self.padding_idx = count, width, padding
  self.weight = Parameter(init.normal_(native.empty(count, width)))
  if padding then self.weight:detach():select(1, padding):fill_(0) end
end

function Embedding:forward(input) return native.embedding(input, self.weight, self.padding_idx) end

function Embedding:extra_repr()
  local text = ("%d, %d"):format(self.num_embeddings, self.embedding_dim)
  return self.padding_idx and text .. ", padding_idx=" .. self.padding_idx or text
end

function Embedding:flops() return 0 end -- luacheck: ignore self

---@class nnlua.Dropout : nnlua.Module
---@overload fun(p: number?): nnlua.Dropout
local Dropout, read_dropout = define("Dropout", "p:num=0.5, inplace:flag=false",
  "In training every element is 0 with probability p, and the others are scaled by 1 / (1 - p).  Hinton et al., "
  .. "arXiv:1207.0580.", "nn.Dropout(0.2)(nn.ones(4, 4))")
layers.Dropout = Dropout

function Dropout:init(...)
  local p, inplace = read_dropout(...)
  if not (p >= 0 and p <= 1) then raise(("Dropout: p must be in 0 .. 1, got %s"):format(p)) end
  self.p, self.inplace = p, inplace
end

function Dropout:forward(input)
  if self.inplace then return native.dropout_(input, self.p, self.training) end
  return native.dropout(input, self.p, self.training)
end

function Dropout:extra_repr() return ("p=%s, inplace=%s"):format(self.p, self.inplace) end

return layers
