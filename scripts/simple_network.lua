-- A network of 2 inputs, 3 hidden units and 1 output, all sigmoid, trained on 100 random samples: first with
-- tensors and the formulas written out, then with modules.
--
--   nnlua scripts/simple_network.lua [--epochs 10000] [--lr 0.01] [--seed 0]
local nn = require "nnlua"
local options = {epochs = 10000, lr = 0.01, seed = 0}
for i = 1, #arg, 2 do options[arg[i]:gsub("^%-%-", "")] = tonumber(arg[i + 1]) end

nn.manual_seed(options.seed)
local inputs = nn.rand(100, 2)
local targets = nn.rand(100, 1)

-- ---- with formulas: y = s(s(x W1 + b1) W2 + b2), where s is the sigmoid and s' = s (1 - s)
local W1, b1 = nn.randn(2, 3), nn.zeros(1, 3)
local W2, b2 = nn.randn(3, 1), nn.zeros(1, 1)

local function forward(x)
  local hidden = (x:matmul(W1) + b1):sigmoid()
  return (hidden:matmul(W2) + b2):sigmoid(), hidden
end

local step = nn.compile(function(x, y)
  local output, hidden = forward(x)
  local error = y - output
  local d_output = error * output * (1 - output)
  local d_hidden = d_output:matmul(W2:t()) * hidden * (1 - hidden)
  W2:add_(hidden:t():matmul(d_output), options.lr)
  b2:add_(d_output:sum(1, true), options.lr)
  W1:add_(x:t():matmul(d_hidden), options.lr)
  b1:add_(d_hidden:sum(1, true), options.lr)
  return error:square():mean()
end)

local start = nn.clock()
local loss
for epoch = 1, options.epochs do
  loss = step(inputs, targets)
  if epoch % (options.epochs // 5) == 0 then print(("epoch %6d  loss %.6f"):format(epoch, loss:item())) end
end
print(("%d epochs in %.2f s"):format(options.epochs, nn.clock() - start))

print "Predictions (inputs, target, output):"
local predictions = forward(inputs)
for i = 1, 5 do
  local x, y, p = inputs[i]:totable(), targets[i]:item(), predictions[i]:item()
  print(("  %.3f %.3f   %.3f   %.3f"):format(x[1], x[2], y, p))
end

-- ---- the same with modules
local net = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1), nn.Sigmoid())
local optimizer = nn.optim.SGD(net:parameters(), {lr = options.lr})
local criterion = nn.MSELoss()
for _ = 1, options.epochs // 10 do
  optimizer:zero_grad()
  loss = criterion(net(inputs), targets)
  loss:backward()
  optimizer:step()
end
print(("with modules, after %d epochs: loss %.6f"):format(options.epochs // 10, loss:item()))
