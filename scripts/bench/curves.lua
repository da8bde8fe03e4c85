-- How the speed of training goes with width, batch, threads, length of sequences and size of images.
--
--   nnlua scripts/bench/curves.lua [--threads N] [--seconds 0.5] [width|batch|threads|length|attention|image ...]
--
-- Beside each figure stands the work done in a second and how it changed from the point before; a cliff is a point that
-- does at least a fifth less (with more threads: a twentieth less).  Work is floating-point operations, and bytes of
-- parameters: with gradients and Adam's two averages a step moves some 40 a parameter.  A byte counts as four
-- operations, between the two of a cache and the ten of memory on machines that compute 200 GFLOP/s.
local nn = require "nnlua"
local folder = arg[0]:match "^(.*/)" or ""
local measure, models = dofile(folder .. "measure.lua"), dofile(folder .. "models.lua")
measure.seconds = 0.5
local wanted = measure.arguments(arg)

local function numel(list)
  local count = 0
  for _, tensor in ipairs(list) do count = count + tensor:numel() end
  return count
end

-- The step of training net on (x, y) for ever, and its work; operations: what a step computes.
local function training(net, x, y, operations)
  local parameters, criterion = net:parameters(), nn.CrossEntropyLoss()
  local optimizer = nn.optim.Adam(parameters, {lr = 1e-3})
  local step = nn.compile(function(input, target)
    optimizer:zero_grad()
    criterion(net(input):reshape(target:numel(), -1), target:reshape(-1)):backward()
    optimizer:step()
  end)
  return function() step(x, y) end, operations + 4 * 40 * numel(parameters)
end

-- ---- each curve's step at a point: the step, its work, its samples

local function mlp(width, batch)
  local net = nn.Sequential(nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))
  -- The first layer's input needs no gradient.
  local operations = batch * (4 * 784 * width + 6 * (width * width + 10 * width))
  local step, work = training(net, nn.rand(batch, 784), nn.randint(1, 10, {batch}), operations)
  return step, work, batch
end

local function sequences(net, batch, length, operations)
  local data = nn.randint(1, 96, {batch, length + 1})
  local step, work = training(net, data:narrow(2, 1, length), data:narrow(2, 2, length), batch * length * operations)
  return step, work, batch * length
end

local function lstm(length) return sequences(models.lstm(), 8, length, 6.4e6) end

local function attention(length)
  local net, width, layers = models.GPT(128, 4, 2, length), 128, 2
  -- Six operations a parameter of the blocks and the head; of attention those below the diagonal.
  return sequences(net, 4, length, 6 * (layers * 12 * width ^ 2 + 96 * width) + 6 * layers * length * width)
end

local function images(size)
  local batch = 8
  local net = nn.Sequential(nn.Conv2d(3, 16, 3, {padding = 1}), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, {padding = 1}), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
  local operations = batch * (4 * 9 * 3 * 16 * size ^ 2 + 6 * 9 * 16 * 32 * (size // 2) ^ 2)
  local step, work = training(net, nn.rand(batch, 3, size, size), nn.randint(1, 10, {batch}), operations)
  return step, work, batch
end

local all = nn.threads()
local thread_counts = {}
for count = 1, all do thread_counts[count] = count end

local function on_threads(count, width, batch)
  local step, work, samples = mlp(width, batch)
  local function counted()
    if nn.threads() ~= count then nn.set_threads(count) end
    step()
  end
  return counted, work, samples
end

local lengths = {16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048}
local curves = {
  {"width", "MLP 784-w-w-10, batch 64: width", {8, 12, 16, 24, 32, 48, 64, 96, 100, 128, 192, 256, 384, 512, 768, 1000,
    1024, 1536, 2048, 3072, 4096}, function(width) return mlp(width, 64) end},
  {"batch", "MLP 784-256-256-10: batch", {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 100, 128, 192, 256, 384, 512,
    768, 1000, 1024}, function(batch) return mlp(256, batch) end},
  {"threads", "MLP 784-32-32-10, batch 16: threads", thread_counts,
    function(count) return on_threads(count, 32, 16) end, drop = 0.05},
  {"threads", "MLP 784-256-256-10, batch 64: threads", thread_counts,
    function(count) return on_threads(count, 256, 64) end, drop = 0.05},
  {"threads", "MLP 784-1024-1024-10, batch 256: threads", thread_counts,
    function(count) return on_threads(count, 1024, 256) end, drop = 0.05},
  {"length", "LSTM, 2 layers of 256, batch 8: length", lengths, lstm, needs = {"LSTM"}},
  {"attention", "decoder, 2 blocks of 128, batch 4: length", lengths, attention,
    needs = {"LayerNorm", "scaled_dot_product_attention"}},
  {"image", "two convolutions, batch 8: size of images", {8, 12, 16, 24, 28, 32, 48, 64, 96, 112, 128, 160, 192, 224},
    images, needs = {"Conv2d", "MaxPool2d", "AdaptiveAvgPool2d"}},
}

-- How much less work a second the step of `now` does than that of `before`, measured in turns: machines change their
-- speed within seconds.
local function change_in_turns(before, now)
  local ratios = {}
  for turn = 1, 7 do
    local _, old = measure.rate(before.step, 1, 1)
    local _, new = measure.rate(now.step, 1, 1)
    ratios[turn] = new * now.work / (old * before.work)
  end
  return (measure.median(ratios))
end

local function print_curve(title, points, run, drop)
  print(("\n%s\n%8s %12s %12s %9s"):format(title, "", "samples/s", "Gwork/s", "change"))
  local before, cliffs = nil, 0
  for _, point in ipairs(points) do
    local step, work, samples = run(point)
    -- The best of short windows: other processes make a point slower, nothing makes it faster.
    local _, rate = measure.rate(step, 2, 1)
    local now, change = {step = step, work = work, speed = rate * work}, nil
    if before then
      change = now.speed / before.speed
      if change < 1 - drop then change = change_in_turns(before, now) end
    end
    local cliff = change and change < 1 - drop
    print(("%8d %12.0f %12.1f %9s%s"):format(point, rate * samples, now.speed * 1e-9,
      change and ("%+.0f %%"):format(100 * (change - 1)) or "", cliff and "  CLIFF" or ""))
    io.stdout:flush()
    before, cliffs = now, cliffs + (cliff and 1 or 0)
  end
  return cliffs
end

local cliffs = 0
for _, curve in ipairs(curves) do
  local name, title, points, run = table.unpack(curve)
  local chosen, lacking = #wanted == 0, measure.lacks(curve.needs or {})
  for _, other in ipairs(wanted) do chosen = chosen or other == name end
  if chosen and lacking then
    print(("\n%s: skipped, this build has no %s"):format(title, lacking))
  elseif chosen then
    cliffs = cliffs + print_curve(title, points, run, curve.drop or 0.2)
    nn.set_threads(all)
  end
end
print(("\n%d cliffs"):format(cliffs))
