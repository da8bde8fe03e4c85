-- Our side of the side-by-side benchmark: prints name, figure, unit and the process's peak memory in MB, tab-separated,
-- one line a workload.  The peers under peers/ have the same workloads by the same names.
--
--   nnlua scripts/bench/workloads.lua [--threads 2] [--seconds 3] [--list | --serve] [NAME ...]
--
-- --list prints the names of what would run, --serve takes them from standard input, as sides.sh says.  What needs
-- modules that this build lacks is skipped with a word.
local nn = require "nnlua"
local folder = arg[0]:match "^(.*/)" or ""
local measure, models = dofile(folder .. "measure.lua"), dofile(folder .. "models.lua")

---------------------------------------------------------------- data

local function images(count)
  local found, train = pcall(nn.data.fashion_mnist)
  if not found then return nn.rand(count, 1, 28, 28), nn.randint(1, 10, {count}) end
  return train:fetch(nil, 1, count)
end

local function colours(count) return nn.rand(count, 3, 32, 32), nn.randint(1, 10, {count}) end

---------------------------------------------------------------- what is measured

local function adam(parameters) return nn.optim.Adam(parameters, {lr = 1e-3}) end
local function sgd(parameters) return nn.optim.SGD(parameters, {lr = 0.01, momentum = 0.9}) end

-- A step of training; batch(i) gives input and target of step i, counted from 0.
local function training(net, optimizer, loss, batch)
  local step = nn.compile(function(x, y)
    optimizer:zero_grad()
    loss(net(x), y):backward()
    optimizer:step()
  end)
  local place = -1
  return function()
    place = place + 1
    step(batch(place))
  end
end

local function classify(make, data, optimizer)
  local net = make()
  local x, y = table.unpack(data)
  return training(net, optimizer(net:parameters()), nn.CrossEntropyLoss(), function(i)
    local first = i % (#x // 64) * 64 + 1
    return x:narrow(1, first, 64), y:narrow(1, first, 64)
  end)
end

local function sequence(make, batch, steps)
  local net, criterion = make(), nn.CrossEntropyLoss()
  local data = nn.randint(1, 96, {64, batch, steps + 1})
  local function loss(output, target)
    return criterion(output:reshape(batch * steps, 96), target:reshape(batch * steps))
  end
  return training(net, adam(net:parameters()), loss, function(i)
    local symbols = data[i % 64 + 1]
    return symbols:narrow(2, 1, steps), symbols:narrow(2, 2, steps)
  end)
end

local function infer(make, shape)
  local net, x = make():eval(), nn.rand(1, table.unpack(shape))
  local run = nn.compile(function(input) return net(input) end)
  return function() run(x) end
end

-- One full-batch epoch of the 2-3-1 network over 100 samples, with formulas written out.
local function formulas()
  local x, y = nn.rand(100, 2), nn.randint(0, 1, {100, 1}):to("f32")
  local w1, b1, w2, b2 = nn.rand(2, 3), nn.zeros(1, 3), nn.rand(3, 1), nn.zeros(1, 1)
  return nn.compile(function()
    local h = (x:matmul(w1) + b1):sigmoid()
    local o = (h:matmul(w2) + b2):sigmoid()
    local d2 = (y - o) * o * (1 - o)
    local d1 = d2:matmul(w2:t()) * h * (1 - h)
    w2:add_(h:t():matmul(d2), 0.01)
    b2:add_(d2:sum(1, true), 0.01)
    w1:add_(x:t():matmul(d1), 0.01)
    b1:add_(d1:sum(1, true), 0.01)
  end)
end

local function seed()
  local net = models.seed()
  local x, y = nn.rand(100, 2), nn.randint(0, 1, {100, 1}):to("f32")
  local optimizer, criterion = nn.optim.SGD(net:parameters(), {lr = 0.01}), nn.MSELoss()
  return nn.compile(function()
    optimizer:zero_grad()
    criterion(net(x), y):backward()
    optimizer:step()
  end)
end

local function additions()
  local a, b = nn.rand(4), nn.rand(4)
  return function()
    for _ = 1, 1000 do local _ = a + b end
  end
end

---------------------------------------------------------------- the workloads

-- name -> {name, needs (modules and functions), make (gives the step), and measure.Work's unit, count, scope}
local workloads, known = {}, {}
local function add(name, needs, make, unit, count, scope)
  workloads[name] = {name = name, needs = needs, make = make, unit = unit, count = count, scope = scope}
  known[#known + 1] = name
end

add("seed-2-3-1-formulas", {}, formulas, "epochs/s")
add("seed-2-3-1", {}, seed, "epochs/s")

local nets = {
  {"mlp", models.mlp, images, 20000, adam, {1, 28, 28}, {}},
  {"lenet", models.lenet, images, 20000, sgd, {1, 28, 28}, {"Conv2d", "MaxPool2d"}},
  {"cnn", models.cnn, images, 20000, adam, {1, 28, 28}, {"Conv2d", "MaxPool2d"}},
  {"resnet20", models.resnet20, colours, 2048, sgd, {3, 32, 32}, {"Conv2d", "BatchNorm2d", "AdaptiveAvgPool2d"}},
}
for _, row in ipairs(nets) do
  local name, make, data, count, optimizer, _, needs = table.unpack(row)
  add(name .. "-train-b64", needs, function() return classify(make, {data(count)}, optimizer) end, "samples/s", 64)
end

local function add_sequence(name, needs, make, batch, steps)
  name = ("%s-b%d-t%d"):format(name, batch, steps)
  add(name, needs, function() return sequence(make, batch, steps) end, "tokens/s", batch * steps)
end
local decoder = {"LayerNorm", "scaled_dot_product_attention"}
add_sequence("lstm-train", {"LSTM"}, models.lstm, 32, 64)
add_sequence("gru-train", {"GRU"}, models.gru, 32, 64)
add_sequence("gpt-train", decoder, function() return models.GPT(128, 4, 4, 64) end, 12, 64)
add_sequence("gpt-train-d384", decoder, function() return models.GPT(384, 6, 6, 256) end, 8, 256)

for _, row in ipairs(nets) do
  local name, make, _, _, _, shape, needs = table.unpack(row)
  add(name .. "-infer-b1", needs, function() return infer(make, shape) end, "us", 1, nn.no_grad)
end
add("door-add-4", {}, additions, "us", 1000)

---------------------------------------------------------------- running them

local function find(name)
  local workload = workloads[name]
  if not workload then
    error(("there is no workload '%s'; there are %s"):format(name, table.concat(known, " ")), 0)
  end
  local lacking = measure.lacks(workload.needs)
  if not lacking then return workload end
  io.stderr:write(("%s: skipped, this build has no %s\n"):format(name, lacking))
end

-- Those asked for, in the order of the list above; all of them if none is.
local asked = {}
for _, name in ipairs(measure.arguments(arg)) do asked[name] = find(name) ~= nil end
local names = {}
for _, name in ipairs(known) do
  if asked[name] or next(asked) == nil and find(name) then names[#names + 1] = name end
end

measure.run(names, function(name)
  local workload = find(name)
  if not workload then return nil end
  nn.manual_seed(0)
  workload.step = workload.make()
  return workload
end)
