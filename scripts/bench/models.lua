--- The networks of the workloads.  Those of peers/ are the same.
local nn = require "nnlua"

local models = {}

function models.seed() return nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1), nn.Sigmoid()) end

function models.mlp()
  return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
end

-- LeNet-5 with ReLU and max pooling.
function models.lenet()
  return nn.Sequential(
    nn.Conv2d(1, 6, 5, {padding = 2}), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))
end

function models.cnn()
  return nn.Sequential(
    nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
    nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10))
end

---------------------------------------------------------------- ResNet-20

local Residual = nn.Module:subclass "Residual"

function Residual:init(inputs, outputs, stride)
  self.c1 = nn.Conv2d(inputs, outputs, 3, {stride = stride, padding = 1, bias = false})
  self.b1 = nn.BatchNorm2d(outputs)
  self.c2 = nn.Conv2d(outputs, outputs, 3, {padding = 1, bias = false})
  self.b2 = nn.BatchNorm2d(outputs)
  if stride ~= 1 or inputs ~= outputs then
    self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, {stride = stride, bias = false}), nn.BatchNorm2d(outputs))
  end
end

function Residual:forward(x)
  local y = self.b2(self.c2(self.b1(self.c1(x)):relu()))
  return (y + (self.short and self.short(x) or x)):relu()
end

function models.resnet20()
  local net = nn.Sequential(nn.Conv2d(3, 16, 3, {padding = 1, bias = false}), nn.BatchNorm2d(16), nn.ReLU())
  local channels = 16
  for _, stage in ipairs {{16, 1}, {32, 2}, {64, 2}} do
    local outputs, stride = table.unpack(stage)
    for i = 1, 3 do
      net:append(Residual(channels, outputs, i == 1 and stride or 1))
      channels = outputs
    end
  end
  return net:append(nn.AdaptiveAvgPool2d(1)):append(nn.Flatten()):append(nn.Linear(64, 10))
end

---------------------------------------------------------------- sequences

-- The next of 96 symbols, by two recurrent layers.
local CharRNN = nn.Module:subclass "CharRNN"

function CharRNN:init(kind)
  self.emb, self.rnn, self.out = nn.Embedding(96, 256), nn[kind](256, 256, 2, {batch_first = true}), nn.Linear(256, 96)
end

function CharRNN:forward(x) return self.out((self.rnn(self.emb(x)))) end

function models.lstm() return CharRNN "LSTM" end
function models.gru() return CharRNN "GRU" end

-- A block of a decoder, with its normalisation before each part.
local Block = nn.Module:subclass "Block"

function Block:init(width, heads)
  self.width, self.heads = width, heads
  self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
  self.qkv, self.o = nn.Linear(width, 3 * width), nn.Linear(width, width)
  self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
end

function Block:forward(x)
  local batch, steps = x:size(1), x:size(2)
  local function split(t) return t:reshape(batch, steps, self.heads, self.width // self.heads):transpose(2, 3) end
  local q, k, v = self.qkv(self.n1(x)):split(self.width, 3)
  local a = nn.F.scaled_dot_product_attention(split(q), split(k), split(v), {is_causal = true})
  x = x + self.o(a:transpose(2, 3):reshape(batch, steps, self.width))
  return x + self.down(nn.F.gelu(self.up(self.n2(x))))
end

-- The next of 96 symbols, by a decoder of blocks.
local GPT = nn.Module:subclass "GPT"

function GPT:init(width, heads, layers, context)
  self.tok, self.pos = nn.Embedding(96, width), nn.Embedding(context, width)
  self.blocks = nn.Sequential()
  for _ = 1, layers do self.blocks:append(Block(width, heads)) end
  self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 96, {bias = false})
end

function GPT:forward(x)
  local y = self.tok(x) + self.pos.weight:narrow(1, 1, x:size(2))
  return self.head(self.norm(self.blocks(y)))
end

models.GPT = GPT

return models
