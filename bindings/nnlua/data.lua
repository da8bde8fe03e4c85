--- nn.data: datasets, the loader, readers of files, and the well-known sets of images.
local Loader = require "nnlua.loader"
local args = require "nnlua.args"
local datasets = require "nnlua.datasets"
local docs = require "nnlua.docs"
local native = require "nnlua.native"

local data = {Loader = Loader, idx = native.idx, npy = native.npy, npy_save = native.npy_save}
for name, value in pairs(datasets) do data[name] = value end

local raise = native.raise

---------------------------------------------------------------- MNIST and its kin

local function exists(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

-- The file of a name in a folder, plain or packed.
local function find(folder, name)
  for _, form in ipairs {name, name .. ".gz", name:gsub("%-idx", ".idx"), (name:gsub("%-idx", ".idx")) .. ".gz"} do
    local path = folder .. "/" .. form
    if exists(path) then return path end
  end
end

local function read_part(folder, part, classes)
  local images = find(folder, part .. "-images-idx3-ubyte")
  local labels = find(folder, part .. "-labels-idx1-ubyte")
  if not images or not labels then return nil end
  local pictures = native.idx(images)
  return datasets.ImageDataset(pictures:unsqueeze(2), native.idx(labels):to("i64"):add_(1), {classes = classes})
end

-- The first of the folders that holds a set in MNIST's form.
local function load_set(name, folders, classes)
  for _, folder in ipairs(folders) do
    local train, test = read_part(folder, "train", classes), read_part(folder, "t10k", classes)
    if train and test then return train, test end
  end
  raise(("%s: train-images-idx3-ubyte and its kin are in none of: %s; give the folder, as in nn.data.%s(\"folder\")")
    :format(name, table.concat(folders, ", "), name))
end

local function folders_for(path, ...)
  if path then return {path} end
  local folders = {}
  local own = os.getenv "NNLUA_DATA"
  for _, sub in ipairs {...} do
    if own then folders[#folders + 1] = own .. "/" .. sub end
  end
  if own then folders[#folders + 1] = own end
  for _, sub in ipairs {...} do folders[#folders + 1] = "/usr/share/datasets/" .. sub end
  return folders
end

local fashion_classes = {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
  "Ankle boot"}
local digit_classes = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}

local read_path = {}
for _, name in ipairs {"fashion_mnist", "mnist"} do read_path[name] = args.reader(name, "path:string?") end

--- Fashion-MNIST (Xiao et al., arXiv:1708.07747): 60 000 and 10 000 images of 28 x 28, 10 classes.  Looked for in the
--- folder `path`, else in $NNLUA_DATA and where Debian's dataset-fashion-mnist puts it.
---@param ... any path
---@return nnlua.ImageDataset train
---@return nnlua.ImageDataset test
function data.fashion_mnist(...)
  local path = read_path.fashion_mnist(...)
  return load_set("fashion_mnist", folders_for(path, "fashion-mnist"), fashion_classes)
end
docs.add(data.fashion_mnist, "data.fashion_mnist", "path:string?",
  "Fashion-MNIST: 60 000 and 10 000 images of 28 x 28, 10 classes, as two datasets.  Looked for in the folder path, "
  .. "else in $NNLUA_DATA and where Debian's dataset-fashion-mnist puts it.  arXiv:1708.07747.",
  "local train, test = nn.data.fashion_mnist()")

--- MNIST (LeCun et al., 1998), in the form of its four IDX files, plain or packed by gzip, in the folder `path`, else
--- in $NNLUA_DATA.
---@param ... any path
---@return nnlua.ImageDataset train
---@return nnlua.ImageDataset test
function data.mnist(...)
  local path = read_path.mnist(...)
  return load_set("mnist", folders_for(path, "mnist"), digit_classes)
end
docs.add(data.mnist, "data.mnist", "path:string?",
  "MNIST from its four IDX files, plain or packed by gzip, in the folder path, else in $NNLUA_DATA.",
  "local train, test = nn.data.mnist(\"mnist\")")

---------------------------------------------------------------- the digits that come along

local function read_digits(name)
  local resource = "data/digits-" .. name .. ".idx"
  local bytes = native.resource(resource)
  if not bytes then raise("digits: " .. resource .. " is not in this build") end
  return native.idx_bytes(resource, bytes)
end

local digits_test = 360 -- of 1797: every fifth

--- The handwritten digits that come with the library (Alpaydin and Kaynak, 1998; CC BY 4.0): 1 437 and 360 images of
--- 8 x 8, 10 classes; every fifth one is for testing.
---@return nnlua.ImageDataset train
---@return nnlua.ImageDataset test
function data.digits(...)
  args.at_most("digits", 0, ...)
  local images, labels = read_digits "images":unsqueeze(2), read_digits "labels":to("i64"):add_(1)
  local train, test = {}, {}
  for i = 1, images:size(1) do
    local part = i % 5 == 1 and #test < digits_test and test or train
    part[#part + 1] = i
  end
  local function part(places)
    local chosen = native.tensor(places, "i64")
    return datasets.ImageDataset(images:index_select(1, chosen), labels:index_select(1, chosen),
      {scale = 16, classes = digit_classes})
  end
  return part(train), part(test)
end
docs.add(data.digits, "data.digits", "",
  "The real handwritten digits that come with the library: 1 437 and 360 images of 8 x 8, 10 classes, as two "
  .. "datasets.  Alpaydin and Kaynak (1998), https://doi.org/10.24432/C50P49, CC BY 4.0.",
  "local train, test = nn.data.digits()")

return data
