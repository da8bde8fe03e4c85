--- nn.data.Loader: batches of a dataset, in order or shuffled.
---
--- A dataset is anything with ds:size() and ds:get(i), which gives one or more values.  Tensors are stacked,
--- integers collate to i64, floats to f32, booleans to bool, lists of numbers to a row each, keyed tables to a table of
--- such; other values give lists.
--- A dataset may have ds:fetch(positions) besides, which gives whole batches at once, and ds:loader_columns(), which
--- gives the tensors in memory that threads can make batches of.
local args = require "nnlua.args"
local docs = require "nnlua.docs"
local native = require "nnlua.native"

local raise = native.raise

---@class nnlua.Loader
---@field dataset table
---@field batch_size integer
local Loader = {__name = "Loader"}
Loader.__index = Loader

local signature = "dataset:any, batch_size:size=1, shuffle:flag=false, drop_last:flag=false, workers:size=0, "
  .. "seed:int?, collate:function?"
local read = args.reader("Loader", signature)
docs.add(Loader, "data.Loader", signature,
  "for x, y in loader:batches() do ... end; #loader is the number of batches.  shuffle: another order each epoch, "
  .. "which depends on seed and epoch only; without a seed it is drawn from the runtime's random numbers.  "
  .. "drop_last leaves out a last batch that is not full.  workers: so many threads make the next batches ahead of "
  .. "their use, the same ones, where the data set is tensors in memory (TensorDataset, images, parts of them), which "
  .. "must not change meanwhile; other data sets give their batches as they are asked for.  No thread is started where "
  .. "nn.threads() compute on every processor: together these make a batch sooner.  collate makes a batch from "
  .. "a list of {value, ...}, one a sample.",
  "nn.data.Loader(ds, {batch_size = 64, shuffle = true})")

---------------------------------------------------------------- collating

local collate_one

-- {x = ..., y = ...} a sample: a table with a batch for each key of the first.
local function collate_keyed(values)
  local batch = {}
  for key in pairs(values[1]) do
    local column = {}
    for i, value in ipairs(values) do
      column[i] = type(value) == "table" and value[key]
      if column[i] == nil or type(value) ~= "table" then
        raise(("Loader: sample %d of the batch has no '%s', but the first has"):format(i, tostring(key)))
      end
    end
    batch[key] = collate_one(column)
  end
  return batch
end

function collate_one(values)
  local first = values[1]
  if native.is_tensor(first) then
    for i, value in ipairs(values) do
      if not native.is_tensor(value) or value.shape ~= first.shape then
        raise(("Loader: sample %d of the batch is %s, but the first is %s; they cannot be stacked"):format(i,
          args.describe(value), args.describe(first)))
      end
    end
    return native.stack(values, 1)
  end
  if type(first) == "boolean" then return native.tensor(values, "bool") end
  if type(first) == "number" or type(first) == "table" and type(first[1]) == "number" then
    local integers = true
    for _, value in ipairs(values) do
      for _, number in ipairs(type(value) == "table" and value or {value}) do
        integers = integers and math.type(number) == "integer"
      end
    end
    return native.tensor(values, integers and "i64" or "f32")
  end
  if type(first) == "table" and getmetatable(first) == nil and type(next(first)) == "string" then
    return collate_keyed(values)
  end
  return values
end

local function collate_samples(samples)
  local results = {}
  for k = 1, samples[1].n do
    local column = {}
    for i, sample in ipairs(samples) do column[i] = sample[k] end
    results[k] = collate_one(column)
  end
  return table.unpack(results, 1, samples[1].n)
end

---------------------------------------------------------------- orders

-- Mixes the seed so that the orders have nothing in common with the script's own random numbers.
local function mixed(seed)
  seed = (seed ~ (seed >> 30)) * -4658895280553007687
  return (seed ~ (seed >> 27)) * -7723592293110705685 ~ 0x5bd1e995
end

--- A random order of 1 .. n that depends on seed and epoch only; the runtime's random numbers stay where they are.
local function order_of(seed, epoch, n)
  local old_seed, old_call = native.rng_state()
  native.set_rng_state(mixed(seed), epoch)
  local ok, order = pcall(native.randperm, n)
  native.set_rng_state(old_seed, old_call)
  if not ok then error(order, 0) end
  return order
end
Loader.order_of = order_of

--- Makes a loader: Loader(dataset, {batch_size = 64, shuffle = true}).
local function construct(_, ...)
  local self = setmetatable({epoch = 0}, Loader)
  self.dataset, self.batch_size, self.shuffle, self.drop_last, self.workers, self.seed, self.collate = read(...)
  local ds = self.dataset
  if type(ds) ~= "table" and type(ds) ~= "userdata" or native.is_tensor(ds) or not ds.size or not ds.get then
    raise("Loader: dataset must have the methods size and get, got " .. args.describe(ds)
      .. "; TensorDataset makes one of tensors")
  end
  if self.batch_size < 1 then raise "Loader: batch_size must be 1 or more, got 0" end
  if not self.seed then self.seed = native.randint(0, 1 << 53, {1}):item() end
  return self
end

-- How many samples there are.
local function size_of(self)
  local given = self.dataset:size()
  local size = type(given) == "number" and math.tointeger(given)
  if not size or size < 0 then
    raise("Loader: the dataset's size() must give an integer, 0 or more, got " .. args.describe(given))
  end
  return size
end

function Loader:__len()
  local n = size_of(self)
  return self.drop_last and n // self.batch_size or (n + self.batch_size - 1) // self.batch_size
end

-- The samples at the places first .. last of an order (nil: as they stand).
local function batch(self, order, first, last)
  local ds = self.dataset
  if ds.fetch and not self.collate then
    return ds:fetch(order and order:narrow(1, first, last - first + 1), first, last)
  end
  local samples = {}
  local places = order and order:narrow(1, first, last - first + 1):totable()
  for i = first, last do
    local place = places and places[i - first + 1] or i
    local sample = table.pack(ds:get(place))
    if sample[1] == nil then
      raise(("Loader: the dataset's get(%d) gives %s, but a value is wanted"):format(place,
        sample.n == 0 and "nothing" or "nil"))
    end
    samples[#samples + 1] = sample
  end
  return (self.collate or collate_samples)(samples)
end

-- What gives the batches that threads make, closed at the loop's end; nil where they cannot.
local function made_ahead(self, order, count)
  local ds = self.dataset
  if not ds.loader_columns or self.collate then return nil end
  local columns, positions = ds:loader_columns()
  if positions and order then positions = positions:index_select(1, order) end
  return native.prefetch(columns, positions or order, self.batch_size, count, self.workers)
end

--- Goes through the batches of one epoch: for x, y in loader:batches() do
---@return fun(): ...
function Loader:batches()
  local n, size = size_of(self), self.batch_size
  local order
  if self.shuffle then order = order_of(self.seed, self.epoch, n) end
  self.epoch = self.epoch + 1
  local count, i = #self, 0
  local ahead = count > 0 and made_ahead(self, order, count)
  if ahead then return function() return ahead() end, nil, nil, ahead end
  return function()
    if i >= count then return nil end
    local first = i * size + 1
    i = i + 1
    return batch(self, order, first, math.min(first + size - 1, n))
  end
end

--- From which epoch the order of the next batches() is; a resumed training sets it.
---@param epoch integer
function Loader:set_epoch(epoch) self.epoch = epoch end

-- for x, y in loader do: batches() is what was meant.
function Loader.__call()
  raise "Loader: loop over its batches, as in: for x, y in loader:batches() do"
end

args.guard_methods(Loader, "loader", function(value) return getmetatable(value) == Loader end,
  {batches = 0, set_epoch = 1})

return setmetatable(Loader, {__call = construct, __name = "class Loader"})
