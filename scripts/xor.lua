-- Exclusive or: the smallest problem that one layer cannot learn and two can.
--
--   nnlua scripts/xor.lua [seed]
local nn = require "nnlua"
nn.manual_seed(math.tointeger(arg[1]) or 1)

local x = nn.tensor({{0, 0}, {0, 1}, {1, 0}, {1, 1}})
local y = nn.tensor({{0}, {1}, {1}, {0}})

local net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
local optimizer = nn.optim.Adam(net:parameters(), {lr = 0.05})
local criterion = nn.BCEWithLogitsLoss()

for epoch = 1, 300 do
  optimizer:zero_grad()
  local loss = criterion(net(x), y)
  loss:backward()
  optimizer:step()
  if epoch % 100 == 0 then print(("epoch %d  loss %.4f"):format(epoch, loss:item())) end
end

local p = net(x):sigmoid():totable()
for i, row in ipairs(x:totable()) do
  print(("%d xor %d = %.3f"):format(row[1], row[2], p[i][1]))
end
