-- Trains a network of two hidden layers on real images: Fashion-MNIST (or MNIST), 28x28, ten classes.
--
--   nnlua scripts/train_mnist.lua [--epochs 5] [--batch 64] [--lr 0.002] [--hidden 256] [--seed 1] [--threads N]
--                                 [--data DIR] [--out FILE] [--load FILE]
--
-- --data DIR holds the four IDX files (plain or .gz); without it the data come from NNLUA_DATA, the Debian package
-- dataset-fashion-mnist, or, where there are none, the small set of 8x8 digits that comes with nnlua.
-- --load FILE evaluates a saved network instead of training.
local nn = require "nnlua"
local show = dofile((arg[0]:match "^(.*/)" or "") .. "lib/show.lua")

local options = show.options(arg, {
  epochs = 5, batch = 64, lr = 2e-3, hidden = 256, seed = 1, threads = false, data = false,
  out = "out/mnist.safetensors", load = false,
})
if options.threads then nn.set_threads(options.threads) end
nn.manual_seed(options.seed)

-- ---- data
local train, test, name
if options.data then
  train, test = nn.data.mnist(options.data)
  name = "the images in " .. options.data
else
  local found
  found, train, test = pcall(nn.data.fashion_mnist)
  name = "Fashion-MNIST"
  if not found then
    train, test = nn.data.digits()
    name = "the 8x8 digits that come with nnlua (Fashion-MNIST was not found: apt install dataset-fashion-mnist)"
  end
end
local classes = test.classes
local images, labels = test:all()
local features = images:numel() // #images
print(("Training on %s: %d images to learn from, %d to test."):format(name, train:size(), test:size()))

-- ---- model
local model = nn.Sequential(
  nn.Flatten(),
  nn.Linear(features, options.hidden), nn.ReLU(),
  nn.Linear(options.hidden, options.hidden // 2), nn.ReLU(),
  nn.Linear(options.hidden // 2, #classes))

local function predict()
  model:eval()
  return nn.no_grad(function() return model(images):argmax(2) end)
end

local function accuracy() return 100 * predict():eq(labels):to("f32"):mean():item() end

-- ---- training
if options.load then
  model:load(options.load)
  print(("%s: test accuracy %.2f %%"):format(options.load, accuracy()))
else
  local loader = nn.data.Loader(train, {batch_size = options.batch, shuffle = true, seed = options.seed})
  local criterion = nn.CrossEntropyLoss()
  local optimizer = nn.optim.Adam(model:parameters(), {lr = options.lr})
  local schedule = nn.optim.CosineAnnealingLR(optimizer, options.epochs * #loader) -- down to 0 at the end

  local step = nn.compile(function(x, y)
    optimizer:zero_grad()
    local loss = criterion(model(x), y)
    loss:backward()
    optimizer:step()
    return loss
  end)

  local start = nn.clock()
  for epoch = 1, options.epochs do
    model:train()
    local bar = show.progress(("epoch %d/%d"):format(epoch, options.epochs), train:size())
    for x, y in loader:batches() do
      bar:add(#x, step(x, y))
      schedule:step()
    end
    bar:finish(("test accuracy %.2f %%"):format(accuracy()))
  end
  print(("Trained in %.1f s."):format(nn.clock() - start))
  if options.out then
    os.execute('mkdir -p "' .. (options.out:match "^(.*)/" or ".") .. '"')
    model:save(options.out)
    print("Saved to " .. options.out .. "; --load " .. options.out .. " evaluates it.")
  end
end

-- ---- result
local predicted = predict()
show.confusion(labels, predicted, classes)
show.mistakes(images, labels, predicted, classes, 3)
