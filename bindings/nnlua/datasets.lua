--- Datasets: tensors side by side, images kept as bytes, parts of other datasets.
local Loader = require "nnlua.loader"
local args = require "nnlua.args"
local docs = require "nnlua.docs"
local native = require "nnlua.native"

local datasets = {}
local raise = native.raise
local image_rows = native.op "image_rows"

local function class(name, signature, doc, example)
  local made = {__name = name}
  made.__index = made
  function made.__len(self) return self:size() end
  docs.add(made, "data." .. name, signature, doc, example)
  datasets[name] = made
  return made
end

local function constructor(made, construct)
  setmetatable(made, {
    __call = function(_, ...)
      local self = setmetatable({}, made)
      construct(self, ...)
      return self
    end,
    __name = "class " .. made.__name,
  })
end

local function check_place(self, i)
  if math.type(i) ~= "integer" or i < 1 or i > self:size() then
    raise(("%s: position %s is out of range; valid are 1 to %d"):format(self.__name, tostring(i), self:size()))
  end
end

---------------------------------------------------------------- tensors

---@class nnlua.TensorDataset
---@field tensors nnlua.Tensor[]
---@overload fun(...: nnlua.Tensor): nnlua.TensorDataset
local TensorDataset = class("TensorDataset", "tensors:any", "Samples are the rows of tensors of the same length.",
  "nn.data.TensorDataset(nn.randn(100, 2), nn.randn(100, 1))")

constructor(TensorDataset, function(self, ...)
  self.tensors = {...}
  local first = self.tensors[1]
  if select("#", ...) == 0 then raise "TensorDataset: at least one tensor is wanted" end
  for i = 1, select("#", ...) do
    local tensor = self.tensors[i]
    if not native.is_tensor(tensor) or tensor:dim() == 0 then
      raise(("TensorDataset: argument %d must be a tensor with at least one dimension, got %s"):format(i,
        args.describe(tensor)))
    end
    if tensor:size(1) ~= first:size(1) then
      raise(("TensorDataset: argument %d has %d rows, but the first has %d"):format(i, tensor:size(1),
        first:size(1)))
    end
  end
end)

---@return integer
function TensorDataset:size() return self.tensors[1]:size(1) end

---@param i integer
function TensorDataset:get(i, ...)
  args.at_most("get", 1, i, ...)
  check_place(self, i)
  local values = {}
  for k, tensor in ipairs(self.tensors) do values[k] = tensor:select(1, i) end
  return table.unpack(values)
end

--- Copies of the rows at the positions, or first .. last when these are nil.
---@param positions nnlua.Tensor?
---@param first integer?
---@param last integer?
function TensorDataset:fetch(positions, first, last)
  local tensors = self.tensors
  local function rows(tensor)
    if positions then return tensor:index_select(1, positions) end
    return tensor:narrow(1, first, last - first + 1):clone()
  end
  if #tensors == 1 then return rows(tensors[1]) end
  if #tensors == 2 then return rows(tensors[1]), rows(tensors[2]) end
  local batch = {}
  for k, tensor in ipairs(tensors) do batch[k] = rows(tensor) end
  return table.unpack(batch)
end

--- What the loader's threads make batches of: {tensor, divisor or nil} for each value, and positions of the samples
--- (nil: all rows as they stand).
function TensorDataset:loader_columns()
  local columns = {}
  for k, tensor in ipairs(self.tensors) do columns[k] = {tensor} end
  return columns
end

---------------------------------------------------------------- images

---@class nnlua.ImageDataset
---@field images nnlua.Tensor u8, N x C x H x W
---@field labels nnlua.Tensor i64, from 1
---@field classes string[]
local ImageDataset = class("ImageDataset", "images:tensor, labels:tensor, scale:num=255, classes:list?",
  "Images kept as bytes (N x C x H x W) and given as f32, divided by scale; labels are class numbers from 1.",
  "nn.data.ImageDataset(images, labels)")
local read_images = args.reader("ImageDataset", "images:tensor, labels:tensor, scale:num=255, classes:list?")

constructor(ImageDataset, function(self, ...)
  self.images, self.labels, self.scale, self.classes = read_images(...)
  if self.images:dim() ~= 4 then
    raise("ImageDataset: images must be N x C x H x W, got " .. tostring(self.images.shape))
  end
  if self.labels:dim() ~= 1 or self.labels:size(1) ~= self.images:size(1) then
    raise(("ImageDataset: %d images need as many labels, got %s"):format(self.images:size(1),
      tostring(self.labels.shape)))
  end
end)

---@return integer
function ImageDataset:size() return self.images:size(1) end

--- Image (C x H x W, f32) and label (an integer) of a sample.
---@param i integer
---@return nnlua.Tensor, integer
function ImageDataset:get(i)
  check_place(self, i)
  return self.images:select(1, i):to("f32") / self.scale, self.labels:select(1, i):item()
end

---@param positions nnlua.Tensor?
---@param first integer?
---@param last integer?
---@return nnlua.Tensor images
---@return nnlua.Tensor labels
function ImageDataset:fetch(positions, first, last)
  if positions and self.images:is_contiguous() then
    return image_rows(self.images, positions, self.scale), self.labels:index_select(1, positions)
  end
  local images, labels
  if positions then
    images, labels = self.images:index_select(1, positions), self.labels:index_select(1, positions)
  else
    local count = last - first + 1
    images, labels = self.images:narrow(1, first, count), self.labels:narrow(1, first, count):clone()
  end
  return images:to("f32"):div_(self.scale), labels
end

--- As TensorDataset's.
function ImageDataset:loader_columns() return {{self.images, self.scale}, {self.labels}} end

--- All samples at once: images as f32, and labels.
---@return nnlua.Tensor images
---@return nnlua.Tensor labels
function ImageDataset:all() return self:fetch(nil, 1, self:size()) end

---------------------------------------------------------------- parts

---@class nnlua.Subset
---@overload fun(dataset: table, positions: integer[]|nnlua.Tensor): nnlua.Subset
local Subset = class("Subset", "dataset:any, positions:any", "The samples of a dataset at the given positions.",
  "nn.data.Subset(ds, {1, 3, 5})")

constructor(Subset, function(self, dataset, positions)
  if type(dataset) ~= "table" or not dataset.size or not dataset.get then
    raise("Subset: dataset must have the methods size and get, got " .. args.describe(dataset))
  end
  if type(positions) == "table" then positions = native.tensor(positions, "i64") end
  if not native.is_tensor(positions) or positions:dim() ~= 1 then
    raise("Subset: positions must be a list of integers or a tensor, got " .. args.describe(positions))
  end
  self.dataset, self.positions = dataset, positions:to("i64")
  local n = dataset:size()
  for i, place in ipairs(self.positions:totable()) do
    if place < 1 or place > n then
      raise(("Subset: position %d is %d, but valid are 1 to %d"):format(i, place, n))
    end
  end
  self.classes = dataset.classes
  if dataset.fetch then
    self.fetch = function(_, chosen, first, last)
      chosen = chosen and self.positions:index_select(1, chosen)
        or self.positions:narrow(1, first, last - first + 1)
      return dataset:fetch(chosen)
    end
  end
  if dataset.loader_columns then
    self.loader_columns = function()
      local columns, inner = dataset:loader_columns()
      return columns, inner and inner:index_select(1, self.positions) or self.positions
    end
  end
end)

---@return integer
function Subset:size() return self.positions:size(1) end

---@param i integer
function Subset:get(i)
  check_place(self, i)
  return self.dataset:get(self.positions:select(1, i):item())
end

local split_signature = "dataset:any, lengths:list, seed:int?"
local read_split = args.reader("random_split", split_signature)

--- Splits a dataset at random into parts of the given sizes, or of the given shares, which add up to 1.
---@param ... any dataset, lengths, {seed =}
---@return nnlua.Subset ...
function datasets.random_split(...)
  local dataset, lengths, seed = read_split(...)
  local n, total, sizes = dataset:size(), 0, {}
  local shares = 0
  for i, length in ipairs(lengths) do
    shares = shares + length
    sizes[i] = length
  end
  if math.abs(shares - 1) < 1e-6 and n ~= 1 then
    for i, share in ipairs(lengths) do sizes[i] = math.floor(n * share) end
    for _, size in ipairs(sizes) do total = total + size end
    -- what rounding left over goes round from the first part on
    for i = 1, n - total do sizes[(i - 1) % #sizes + 1] = sizes[(i - 1) % #sizes + 1] + 1 end
  elseif shares ~= n then
    raise(("random_split: the lengths add up to %s, but the dataset has %d samples"):format(shares, n))
  end
  local order = seed and Loader.order_of(seed, 0, n) or native.randperm(n)
  local parts, from = {}, 1
  for i, size in ipairs(sizes) do
    parts[i] = Subset(dataset, order:narrow(1, from, math.tointeger(size)))
    from = from + math.tointeger(size)
  end
  return table.unpack(parts)
end
docs.add(datasets.random_split, "data.random_split", split_signature,
  "Splits a dataset at random into parts of the given sizes, or of the given shares, which add up to 1.",
  "local train, valid = nn.data.random_split(ds, {0.9, 0.1}, {seed = 1})")

return datasets
