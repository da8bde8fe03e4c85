-- Our side of the side-by-side benchmark: prints name, value and unit, tab-separated, one line a workload.
-- The peers under peers/ have the same workloads by the same names.
--
--   nnlua --threads 2 scripts/bench/workloads.lua [--seconds 3] [NAME ...]
local nn = require "nnlua"

local seconds, names = 3, {}
do
  local i = 1
  while i <= #arg do
    if arg[i] == "--seconds" then
      seconds, i = tonumber(arg[i + 1]), i + 1
    else
      names[#names + 1] = arg[i]
    end
    i = i + 1
  end
end

--- Steps a second: the median of five windows after a warm-up.
local function rate(step)
  for _ = 1, 5 do step() end
  local start = nn.clock()
  step()
  local count = math.max(3, math.floor(seconds / 5 / math.max(nn.clock() - start, 1e-6)))
  local rates = {}
  for window = 1, 5 do
    start = nn.clock()
    for _ = 1, count do step() end
    rates[window] = count / (nn.clock() - start)
  end
  table.sort(rates)
  return rates[3]
end

local function images(count)
  local ok, train = pcall(nn.data.fashion_mnist)
  if not ok then return nn.rand(count, 1, 28, 28), nn.randint(1, 10, {count}) end
  return train:fetch(nil, 1, count)
end

local function mlp()
  return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
end

local workloads = {}

-- A 2-3-1 sigmoid network with formulas written out: one full-batch epoch over 100 samples.
workloads[1] = {"seed-2-3-1-formulas", "epochs/s", function()
  local x, y = nn.rand(100, 2), nn.randint(0, 1, {100, 1}):to("f32")
  local w1, b1, w2, b2 = nn.rand(2, 3), nn.zeros(1, 3), nn.rand(3, 1), nn.zeros(1, 1)
  return rate(nn.compile(function()
    local h = (x:matmul(w1) + b1):sigmoid()
    local o = (h:matmul(w2) + b2):sigmoid()
    local d2 = (y - o) * o * (1 - o)
    local d1 = d2:matmul(w2:t()) * h * (1 - h)
    w2:add_(h:t():matmul(d2), 0.01)
    b2:add_(d2:sum(1, true), 0.01)
    w1:add_(x:t():matmul(d1), 0.01)
    b1:add_(d1:sum(1, true), 0.01)
  end))
end}

workloads[2] = {"seed-2-3-1", "epochs/s", function()
  local net = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1), nn.Sigmoid())
  local x, y = nn.rand(100, 2), nn.randint(0, 1, {100, 1}):to("f32")
  local optimizer = nn.optim.SGD(net:parameters(), {lr = 0.01})
  local criterion = nn.MSELoss()
  return rate(nn.compile(function()
    optimizer:zero_grad()
    criterion(net(x), y):backward()
    optimizer:step()
  end))
end}

-- One pass after the other over data in memory, 64 samples a step.
local function train(net, x, y, make_optimizer)
  local place, batches = 0, x:size(1) // 64
  local optimizer, criterion = make_optimizer(net:parameters()), nn.CrossEntropyLoss()
  local step = nn.compile(function(xs, ys)
    optimizer:zero_grad()
    criterion(net(xs), ys):backward()
    optimizer:step()
  end)
  return 64 * rate(function()
    local first = place % batches * 64 + 1
    place = place + 1
    step(x:narrow(1, first, 64), y:narrow(1, first, 64))
  end)
end

local function infer(net, x)
  net:eval()
  return nn.no_grad(function() return 1e6 / rate(function() net(x) end) end)
end

workloads[3] = {"mlp-train-b64", "samples/s", function()
  local x, y = images(20000)
  return train(mlp(), x, y, function(parameters) return nn.optim.Adam(parameters, {lr = 1e-3}) end)
end}

workloads[4] = {"mlp-infer-b1", "us", function() return infer(mlp(), (images(1))) end}

-- LeNet-5 with ReLU and max pooling.
local function lenet()
  return nn.Sequential(nn.Conv2d(1, 6, 5, {padding = 2}), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(),
    nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))
end

local function cnn()
  return nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
    nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10))
end

local Block = nn.Module:subclass "Block"
function Block:init(inputs, outputs, stride)
  self.c1 = nn.Conv2d(inputs, outputs, 3, {stride = stride, padding = 1, bias = false})
  self.b1 = nn.BatchNorm2d(outputs)
  self.c2 = nn.Conv2d(outputs, outputs, 3, {padding = 1, bias = false})
  self.b2 = nn.BatchNorm2d(outputs)
  if stride ~= 1 or inputs ~= outputs then
    self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, {stride = stride, bias = false}), nn.BatchNorm2d(outputs))
  end
end

function Block:forward(x)
  local y = self.b2(self.c2(self.b1(self.c1(x)):relu()))
  return (y + (self.short and self.short(x) or x)):relu()
end

local function resnet20()
  local layers, channels = {nn.Conv2d(3, 16, 3, {padding = 1, bias = false}), nn.BatchNorm2d(16), nn.ReLU()}, 16
  for stage, outputs in ipairs {16, 32, 64} do
    for i = 1, 3 do
      layers[#layers + 1] = Block(channels, outputs, stage > 1 and i == 1 and 2 or 1)
      channels = outputs
    end
  end
  for _, module in ipairs {nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)} do layers[#layers + 1] = module end
  return nn.Sequential(layers)
end

local function colours(count) return nn.rand(count, 3, 32, 32), nn.randint(1, 10, {count}) end
local function adam(parameters) return nn.optim.Adam(parameters, {lr = 1e-3}) end
local function sgd(parameters) return nn.optim.SGD(parameters, {lr = 0.01, momentum = 0.9}) end

for _, row in ipairs {{"lenet", lenet, images, 20000, sgd}, {"cnn", cnn, images, 20000, adam},
  {"resnet20", resnet20, colours, 2048, sgd}} do
  local name, make, data, count, optimizer = table.unpack(row)
  workloads[#workloads + 1] = {name .. "-train-b64", "samples/s", function()
    local x, y = data(count)
    return train(make(), x, y, optimizer)
  end}
  workloads[#workloads + 1] = {name .. "-infer-b1", "us", function() return infer(make(), (data(1))) end}
end

workloads[#workloads + 1] = {"door-add-4", "us", function()
  local a, b = nn.rand(4), nn.rand(4)
  return 1e6 / (1000 * rate(function()
    for _ = 1, 1000 do local _ = a + b end
  end))
end}

-- Embedding, two recurrent layers, a linear one: the next of 96 symbols, 32 sequences of 64 at a time.
local CharRNN = nn.Module:subclass "CharRNN"

function CharRNN:init(kind)
  self.emb, self.rnn, self.out = nn.Embedding(96, 256), nn[kind](256, 256, 2, {batch_first = true}), nn.Linear(256, 96)
end

function CharRNN:forward(x) return self.out((self.rnn(self.emb(x)))) end

local function sequences(net, vocabulary, batch, steps)
  local data, place = nn.randint(1, vocabulary, {64, batch, steps + 1}), 0
  local optimizer = nn.optim.Adam(net:parameters(), {lr = 1e-3})
  local criterion = nn.CrossEntropyLoss()
  local step = nn.compile(function(x, y)
    optimizer:zero_grad()
    criterion(net(x):reshape(batch * steps, vocabulary), y:reshape(batch * steps)):backward()
    optimizer:step()
  end)
  return batch * steps * rate(function()
    local symbols = data[place % 64 + 1]
    place = place + 1
    step(symbols:narrow(2, 1, steps), symbols:narrow(2, 2, steps))
  end)
end

workloads[#workloads + 1] = {"lstm-train-b32-t64", "tokens/s", function()
  return sequences(CharRNN "LSTM", 96, 32, 64)
end}
workloads[#workloads + 1] = {"gru-train-b32-t64", "tokens/s", function()
  return sequences(CharRNN "GRU", 96, 32, 64)
end}

nn.manual_seed(0)
for _, workload in ipairs(workloads) do
  local name, unit, run = table.unpack(workload)
  local wanted = #names == 0
  for _, other in ipairs(names) do wanted = wanted or other == name end
  if wanted then
    print(("%s\t%.2f\t%s"):format(name, run(), unit))
    io.stdout:flush()
  end
end
