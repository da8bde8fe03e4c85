-- Datasets, the loader and the well-known sets of images.
local helpers = require "spec.helpers"
local nn = helpers.nn
local data = nn.data

local function batches_of(loader)
  local list = {}
  for x, y in loader:batches() do list[#list + 1] = {x, y} end
  return list
end

local function all_of(loader)
  local list = {}
  for x in loader:batches() do
    for _, v in ipairs(x:totable()) do list[#list + 1] = v end
  end
  return list
end

local numbers = {}
for i = 1, 10 do numbers[i] = i end

local function numbered() return data.TensorDataset(nn.tensor(numbers, "i64"), nn.tensor(numbers) * 2) end

-- A dataset of one's own: whatever get returns.
local function own(count, get)
  return {size = function() return count end, get = function(_, i) return get(i) end}
end

describe("TensorDataset", function()
  it("gives the rows of its tensors", function()
    local ds = data.TensorDataset(nn.tensor {{1, 2}, {3, 4}}, nn.tensor({5, 6}, "i64"))
    assert.equal(2, ds:size())
    assert.equal(2, #ds)
    local x, y = ds:get(2)
    assert.same({3, 4}, x:totable())
    assert.equal(6, y:item())
  end)
end)

describe("Loader", function()
  it("gives batches in order", function()
    local loader = data.Loader(numbered(), {batch_size = 4})
    assert.equal(3, #loader)
    local list = batches_of(loader)
    assert.same({1, 2, 3, 4}, list[1][1]:totable())
    assert.same({10, 12, 14, 16}, list[2][2]:totable())
    assert.same({9, 10}, list[3][1]:totable())
    assert.equal("i64", list[1][1].dtype)
  end)

  it("leaves out a last batch that is not full when told so", function()
    local loader = data.Loader(numbered(), 4, {drop_last = true})
    assert.equal(2, #loader)
    assert.equal(2, #batches_of(loader))
    assert.equal(1, #data.Loader(numbered(), {batch_size = 100}))
  end)

  it("gives batches that may be changed without changing the dataset", function()
    local ds = numbered()
    for _, shuffle in ipairs {false, true} do
      for x, y in data.Loader(ds, {batch_size = 4, shuffle = shuffle}):batches() do
        x:fill_(0)
        y:fill_(0)
      end
    end
    assert.equal(55, ds.tensors[1]:sum():item())
    assert.equal(110, ds.tensors[2]:sum():item())
  end)

  it("has batches of one sample by default", function()
    local list = batches_of(data.Loader(numbered()))
    assert.equal(10, #list)
    assert.same({3}, list[3][1]:totable())
  end)

  it("shuffles anew each epoch, by seed and epoch alone", function()
    local function loader() return data.Loader(numbered(), {batch_size = 3, shuffle = true, seed = 5}) end
    local a, b = loader(), loader()
    local first, second = all_of(a), all_of(a)
    assert.not_same(first, second)
    nn.randn(3)
    assert.same(first, all_of(b))
    assert.same(second, all_of(b))
    local sorted = table.move(first, 1, #first, 1, {})
    table.sort(sorted)
    assert.same(numbers, sorted)
    local c = loader()
    c:set_epoch(1)
    assert.same(second, all_of(c))
    assert.not_same(first, all_of(data.Loader(numbered(), {batch_size = 3, shuffle = true, seed = 6})))
  end)

  it("keeps x and y together", function()
    for x, y in data.Loader(numbered(), {batch_size = 3, shuffle = true}):batches() do
      assert.same((x * 2):to("f32"):totable(), y:totable())
    end
  end)

  it("is seeded by manual_seed, and draws no number of the script's while it runs", function()
    nn.manual_seed(3)
    local loader = data.Loader(numbered(), {shuffle = true})
    local first = all_of(loader)
    local after = nn.rand(1):item()
    nn.manual_seed(3)
    loader = data.Loader(numbered(), {shuffle = true})
    assert.equal(after, nn.rand(1):item())
    assert.same(first, all_of(loader))
  end)

  it("collates by kind: integers, floats, booleans, tensors, lists, other values", function()
    local ds = own(3, function(i) return i, i / 2, i > 1, nn.full({2}, i), {i, i + 1}, {i + 0.5, 1}, "s" .. i end)
    local a, b, c, d, e, f, g = data.Loader(ds, {batch_size = 3}):batches()()
    assert.equal("i64 f32 bool f32 i64 f32", table.concat({a.dtype, b.dtype, c.dtype, d.dtype, e.dtype, f.dtype}, " "))
    assert.same({1, 2, 3}, a:totable())
    assert.same({0.5, 1, 1.5}, b:totable())
    assert.same({false, true, true}, c:totable())
    assert.same({{1, 1}, {2, 2}, {3, 3}}, d:totable())
    assert.same({{1, 2}, {2, 3}, {3, 4}}, e:totable())
    assert.same({{1.5, 1}, {2.5, 1}, {3.5, 1}}, f:totable())
    assert.same({"s1", "s2", "s3"}, g)
  end)

  it("collates keyed tables by key", function()
    local dataset = {size = function() return 3 end}
    function dataset.get(_, i) return {x = nn.ones(2) * i, y = i, deep = {ok = i > 1}}, i end
    local batch, places = data.Loader(dataset, {batch_size = 3}):batches()()
    assert.same({{1, 1}, {2, 2}, {3, 3}}, batch.x:totable())
    assert.equal("i64", batch.y.dtype)
    assert.same({false, true, true}, batch.deep.ok:totable())
    assert.same({1, 2, 3}, places:totable())
  end)

  it("gives one value or three, and takes a collate function", function()
    local three = data.TensorDataset(nn.ones(4), nn.zeros(4), nn.ones(4, 2))
    local a, b, c, d = data.Loader(three, {batch_size = 2, shuffle = true}):batches()()
    assert.is_true(a:size(1) == 2 and b:size(1) == 2 and c:size(2) == 2 and d == nil)
    local loader = data.Loader(numbered(), {batch_size = 5, collate = function(samples)
      local sum = 0
      for _, sample in ipairs(samples) do sum = sum + sample[1]:item() end
      return sum
    end})
    local sums = {}
    for sum in loader:batches() do sums[#sums + 1] = sum end
    assert.same({15, 40}, sums)
  end)

  it("may be left in the middle and begun again", function()
    local loader = data.Loader(numbered(), {batch_size = 4})
    for _ in loader:batches() do break end -- luacheck: ignore 512
    assert.equal(10, #all_of(loader))
  end)
end)

describe("Loader with workers", function()
  local threads = nn.threads()
  before_each(function() nn.set_threads(1) end) -- where threads compute on every processor, they make the batches
  after_each(function() nn.set_threads(threads) end)

  local images = nn.randint(0, 255, {103, 2, 5, 3}):to("u8")
  local set = data.ImageDataset(images, nn.randint(1, 9, {103}), {scale = 100})
  local sets = {
    ["many elements"] = data.ImageDataset(nn.randint(0, 255, {100, 1, 28, 28}):to("u8"), nn.randint(1, 9, {100})),
    numbers = numbered(), images = set, part = data.Subset(set, {7, 3, 99, 3, 50, 12}),
    ["a part of a part"] = data.Subset(data.Subset(set, nn.arange(3, 90)), nn.arange(1, 80, 3)),
    ["several types"] = data.TensorDataset(nn.randn(17, 3):to "f64", nn.rand(17):gt(0.5), nn.arange(17),
      nn.zeros(17, 0)),
    ["a view"] = data.TensorDataset(nn.randn(4, 30):t()),
    ["one that is tracked"] = data.TensorDataset(nn.randn(9, 2, {requires_grad = true})),
    ["one of the script's own"] = own(11, function(i) return nn.full({2}, i), i end),
  }

  local function check_same(wanted, got)
    assert.equal(#wanted, #got)
    for i = 1, #wanted do
      for k = 1, 2 do
        local a, b = wanted[i][k], got[i][k]
        assert.is_true(a == b or a.dtype == b.dtype and a.shape == b.shape and a:equal(b))
      end
    end
  end

  -- The same samples from a data set whose memory the loader does not know.
  local function opaque(ds)
    return setmetatable({loader_columns = false}, {__index = ds, __len = function() return #ds end})
  end

  for name, ds in pairs(sets) do
    it("gives the batches of a data set that is asked for each: " .. name, function()
      for _, batch_size in ipairs {1, 4, 200} do
        for _, way in ipairs {{false, false}, {true, false}, {true, true}} do
          local function batches(set_, workers)
            local loader = data.Loader(set_, {batch_size = batch_size, workers = workers, seed = 5, shuffle = way[1],
              drop_last = way[2]})
            loader:set_epoch(3)
            return batches_of(loader)
          end
          local wanted = batches(opaque(ds), 0)
          for computing = 1, 2 do
            nn.set_threads(computing)
            for _, workers in ipairs {0, 1, 2, 5} do check_same(wanted, batches(ds, workers)) end
          end
        end
      end
    end)
  end

  -- A quotient of f64 rounded to f32 is the quotient of f32: 53 bits are twice 24 and two more (Figueroa, 1995).
  it("divides bytes as a division does, whatever the scale", function()
    local bytes = {}
    for i = 0, 255 do bytes[i + 1] = i end
    local every = nn.tensor(bytes, "u8"):reshape(8, 1, 1, 32)
    for _, scale in ipairs {255, 1, 7, 16, 100, 127.5, 4095, 4097, 0.3, 1 / 255, -255, 3e-39, 1e-30, 2.0 ^ 64,
      2.0 ^ 127, 3e38, math.huge} do
      local divisor = string.unpack("f", string.pack("f", scale))
      local wanted = {}
      for i = 0, 255 do wanted[i + 1] = string.unpack("f", string.pack("f", i / divisor)) end
      wanted = nn.tensor(wanted):reshape(8, 1, 1, 32)
      local ds = data.ImageDataset(every, nn.arange(1, 8), {scale = scale})
      for workers = 0, 1 do
        for _, shuffle in ipairs {false, true} do
          for x, y in data.Loader(ds, {batch_size = 3, workers = workers, shuffle = shuffle}):batches() do
            assert.is_true(x:equal(wanted:index_select(1, y)), scale)
          end
        end
      end
    end
  end)

  it("may be left in the middle, twice at once, closed or not", function()
    local loader = data.Loader(set, {batch_size = 4, workers = 2, shuffle = true, seed = 1})
    local wanted = batches_of(data.Loader(set, {batch_size = 4, shuffle = true, seed = 1}))
    collectgarbage()
    collectgarbage()
    local before = nn.memory().tensors
    local first
    for i = 1, 20 do
      loader:set_epoch(0)
      local count = 0
      for x, y in loader:batches() do
        first, count = first or x, count + 1
        assert.is_true(x:equal(wanted[count][1]) and y:equal(wanted[count][2]))
        if count == i % 4 + 1 then break end
      end
    end
    loader:set_epoch(0)
    local a = loader:batches()
    loader:set_epoch(0)
    local b = loader:batches()
    for _ = 1, 3 do assert.is_true(a():equal((b()))) end
    assert.is_false((pcall(function()
      for _ in loader:batches() do error "in the loop" end
    end)))
    assert.is_true(first:equal(wanted[1][1])) -- a batch is the script's own
    a, b, first = nil, nil, nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    assert.is_true(nn.memory().tensors <= before + 2)
  end)

  it("ends in order, also when memory is short", function()
    local loader, got = data.Loader(set, {batch_size = 10, workers = 1}), 0
    local batches = loader:batches()
    while batches() do got = got + 1 end
    assert.equal(11, got)
    assert.is_nil(batches())
    for at = 1, 80 do
      nn.fail_allocation(at, true)
      local ok, result = pcall(function()
        local sum = 0
        for x in loader:batches() do sum = sum + #x end
        return sum
      end)
      nn.fail_allocation(0)
      assert.is_true(ok and result == 103 or not ok and result:find("memory", 1, true) ~= nil, result)
    end
  end)
end)

describe("parts of datasets", function()
  it("Subset gives the chosen samples", function()
    local part = data.Subset(numbered(), {2, 9, 4})
    assert.equal(3, part:size())
    assert.equal(9, (part:get(2)):item())
    assert.same({2, 9, 4}, all_of(data.Loader(part, {batch_size = 2})))
    assert.same({18}, batches_of(data.Loader(part))[2][2]:totable())
    local slow = data.Subset(own(5, function(i) return i * i end), nn.tensor({5, 1}, "i64"))
    assert.same({25, 1}, all_of(data.Loader(slow, {batch_size = 2})))
  end)

  it("random_split gives disjoint parts of the wanted sizes", function()
    local function split(...) return data.random_split(numbered(), ...) end
    for _, lengths in ipairs {{7, 3}, {0.7, 0.3}} do
      local a, b = split(lengths, {seed = 1})
      assert.same({7, 3}, {a:size(), b:size()})
      local seen = all_of(data.Loader(a))
      for _, v in ipairs(all_of(data.Loader(b))) do seen[#seen + 1] = v end
      table.sort(seen)
      assert.same(numbers, seen)
      assert.same(all_of(data.Loader(a)), all_of(data.Loader((split(lengths, {seed = 1})))))
    end
    local a, b, c = split {0.5, 0.25, 0.25}
    assert.same({6, 2, 2}, {a:size(), b:size(), c:size()}) -- 5 + 2 + 2, the rest to the first, as in torch
  end)
end)

---------------------------------------------------------------- images

-- An IDX file of bytes.
local function write_idx(path, shape, bytes)
  local file = assert(io.open(path, "wb"))
  file:write(string.char(0, 0, 8, #shape))
  for _, n in ipairs(shape) do file:write(string.pack(">I4", n)) end
  file:write(string.char(table.unpack(bytes)))
  file:close()
end

describe("digits", function()
  local train, test = data.digits()

  it("has 1797 images of 8 x 8 in two parts", function()
    assert.same({1437, 360}, {train:size(), test:size()})
    local x, y = train:fetch(nil, 1, 5)
    assert.equal("5x1x8x8 f32", tostring(x.shape) .. " " .. x.dtype)
    assert.equal("5 i64", tostring(y.shape) .. " " .. y.dtype)
  end)

  it("begins as scikit-learn's copy does", function()
    -- load_digits(): target 0, 1, 2 ...; data[0] begins 0 0 5 13 9 1 0 0 and sums to 294
    local image, label = test:get(1)
    assert.equal(1, label)
    assert.same({0, 0, 5 / 16, 13 / 16, 9 / 16, 1 / 16, 0, 0}, image[1][1]:totable())
    assert.equal(294, (image * 16):sum():item())
    assert.same({2, 3, 4, 5}, {select(2, train:get(1)), select(2, train:get(2)), select(2, train:get(3)),
      select(2, train:get(4))})
  end)

  it("counts labels from 1 and values within 0 .. 1", function()
    local x, y = train:all()
    assert.same({1, 10}, {(y:min()):item(), (y:max()):item()})
    assert.is_true((x:min()):item() == 0 and (x:max()):item() == 1)
    assert.equal("0", train.classes[1])
  end)
end)

describe("images in MNIST's form", function()
  local folder
  setup(function()
    folder = os.tmpname()
    os.remove(folder)
    os.execute("mkdir '" .. folder .. "'")
    local bytes = {}
    for i = 1, 3 * 2 * 2 do bytes[i] = i * 20 end
    write_idx(folder .. "/train-images-idx3-ubyte", {3, 2, 2}, bytes)
    write_idx(folder .. "/train-labels-idx1-ubyte", {3}, {7, 0, 9})
    write_idx(folder .. "/t10k-images-idx3-ubyte", {1, 2, 2}, {0, 255, 51, 0})
    write_idx(folder .. "/t10k-labels-idx1-ubyte", {1}, {4})
  end)
  teardown(function() os.execute("rm -r '" .. folder .. "'") end)

  it("are read from a folder, kept as bytes and given in 0 .. 1", function()
    local train, test = data.mnist(folder)
    assert.same({3, 1}, {train:size(), test:size()})
    assert.equal("u8", train.images.dtype)
    local x, y = train:get(1)
    assert.equal(8, y)
    assert.equal("1x2x2", tostring(x.shape))
    local images, labels = data.Loader(test):batches()()
    assert.same({5}, labels:totable())
    helpers.assert_close("image", images, nn.tensor {{{{0, 1}, {0.2, 0}}}})
    local shuffled = data.Loader(train, {batch_size = 3, shuffle = true})
    local batch, batch_labels = shuffled:batches()()
    for i = 1, 3 do
      local first = ({[8] = 20, [1] = 100, [10] = 180})[batch_labels[i]:item()]
      assert.is_true(math.abs(batch[{i, 1, 1, 1}]:item() - first / 255) < 1e-7)
    end
  end)

  it("are found through NNLUA_DATA", function()
    local program = 'local nn = require "nnlua"; local a = nn.data.fashion_mnist(); print(a:size(), a.classes[10])'
    local _, out = helpers.spawn {"env", "NNLUA_DATA=" .. folder, helpers.build .. "/nnlua", "-e", program}
    assert.equal("3\tAnkle boot\n", out)
  end)
end)

describe("Fashion-MNIST", function()
  local ok, train, test = pcall(data.fashion_mnist)

  it("begins as published", function()
    if not ok then return pending "it is not installed" end
    assert.same({60000, 10000}, {train:size(), test:size()})
    local _, label = train:get(1)
    assert.equal("Ankle boot", train.classes[label])
    _, label = test:get(2)
    assert.equal("Pullover", test.classes[label])
    -- 6 000 of each class, and the known mean of the pixels
    local _, labels = train:fetch(nil, 1, 60000)
    for class = 1, 10 do assert.equal(6000, labels:eq(class):sum():item()) end
    local sum = 0
    for x in data.Loader(train, {batch_size = 5000}):batches() do sum = sum + x:mean():item() / 12 end
    assert.is_true(math.abs(sum - 0.2860) < 1e-4)
  end)
end)
