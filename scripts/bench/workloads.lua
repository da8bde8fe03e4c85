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

workloads[3] = {"mlp-train-b64", "samples/s", function()
  local x, y = images(20000)
  local net, place = mlp(), 0
  local optimizer = nn.optim.Adam(net:parameters(), {lr = 1e-3})
  local criterion = nn.CrossEntropyLoss()
  local step = nn.compile(function(xs, ys)
    optimizer:zero_grad()
    criterion(net(xs), ys):backward()
    optimizer:step()
  end)
  return 64 * rate(function()
    local first = place % (20000 // 64) * 64 + 1
    place = place + 1
    step(x:narrow(1, first, 64), y:narrow(1, first, 64))
  end)
end}

workloads[4] = {"mlp-infer-b1", "us", function()
  local x = images(1)
  local net = mlp():eval()
  return nn.no_grad(function() return 1e6 / rate(function() net(x) end) end)
end}

workloads[5] = {"door-add-4", "us", function()
  local a, b = nn.rand(4), nn.rand(4)
  return 1e6 / (1000 * rate(function()
    for _ = 1, 1000 do local _ = a + b end
  end))
end}

---------------------------------------------------------------- sequences

-- A decoder block with its normalisation before each part.
local Block = nn.Module:subclass "Block"

function Block:init(width, heads)
  self.heads, self.width = heads, width
  self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
  self.qkv, self.o = nn.Linear(width, 3 * width), nn.Linear(width, width)
  self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
end

function Block:forward(x)
  local batch, length = x:size(1), x:size(2)
  local function heads(t) return t:reshape(batch, length, self.heads, self.width // self.heads):transpose(2, 3) end
  local q, k, v = self.qkv(self.n1(x)):split(self.width, 3)
  local a = nn.F.scaled_dot_product_attention(heads(q), heads(k), heads(v), {is_causal = true})
  x = x + self.o(a:transpose(2, 3):reshape(batch, length, self.width))
  return x + self.down(nn.F.gelu(self.up(self.n2(x))))
end

local GPT = nn.Module:subclass "GPT"

function GPT:init(vocabulary, width, heads, layers, context)
  self.tok, self.pos = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
  self.blocks = {}
  for i = 1, layers do self.blocks[i] = Block(width, heads) end
  self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, {bias = false})
end

function GPT:forward(x)
  local y = self.tok(x) + self.pos.weight:narrow(1, 1, x:size(2))
  for _, block in ipairs(self.blocks) do y = block(y) end
  return self.head(self.norm(y))
end

-- Tokens a second of training with Adam on random symbols.
local function sequence(model, vocabulary, batch, length)
  local data = nn.randint(1, vocabulary, {64, batch, length + 1})
  local optimizer = nn.optim.Adam(model:parameters(), {lr = 1e-3})
  local criterion = nn.CrossEntropyLoss()
  local place = 0
  local step = nn.compile(function(x, y)
    optimizer:zero_grad()
    criterion(model(x):reshape(batch * length, vocabulary), y:reshape(batch * length)):backward()
    optimizer:step()
  end)
  return batch * length * rate(function()
    local d = data[place % 64 + 1]
    place = place + 1
    step(d:narrow(2, 1, length), d:narrow(2, 2, length))
  end)
end

workloads[6] = {"gpt-train-b12-t64", "tokens/s", function() return sequence(GPT(96, 128, 4, 4, 64), 96, 12, 64) end}
workloads[7] = {"gpt-train-d384-b8-t256", "tokens/s", function()
  return sequence(GPT(96, 384, 6, 6, 256), 96, 8, 256)
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
