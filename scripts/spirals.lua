-- Two spirals wound around each other: which one does a point belong to?  The terminal shows the boundary that
-- the network has learned, and the points.
--
--   nnlua scripts/spirals.lua [--epochs 600] [--points 200] [--seed 1]
local nn = require "nnlua"
local options = {epochs = 600, points = 200, seed = 1}
for i = 1, #arg, 2 do options[arg[i]:gsub("^%-%-", "")] = math.tointeger(arg[i + 1]) end
nn.manual_seed(options.seed)

-- Each spiral turns one and a half times; the second is the first turned by half a turn.
local n = options.points
local radius = nn.linspace(0.1, 1, n)
local angle = radius * 3 * math.pi
local x = nn.stack({radius * angle:cos(), radius * angle:sin()}, 2)
x = nn.cat({x, -x}, 1) + nn.randn(2 * n, 2) * 0.02
local labels = nn.cat({nn.full({n}, 1, {dtype = "i64"}), nn.full({n}, 2, {dtype = "i64"})}, 1)

local net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))
local optimizer = nn.optim.Adam(net:parameters(), {lr = 0.01})
local criterion = nn.CrossEntropyLoss()

for epoch = 1, options.epochs do
  optimizer:zero_grad()
  local loss = criterion(net(x), labels)
  loss:backward()
  optimizer:step()
  if epoch % 100 == 0 then
    local right = net(x):argmax(2):eq(labels):to("f32"):mean():item()
    print(("epoch %4d  loss %.4f  accuracy %.2f %%"):format(epoch, loss:item(), 100 * right))
  end
end

-- The plane from -1.1 to 1.1, a character each 2.2 / 60.
local width, height = 60, 30
local cells = {}
for row = 1, height do
  for column = 1, width do
    cells[#cells + 1] = {-1.1 + 2.2 * (column - 0.5) / width, 1.1 - 2.2 * (row - 0.5) / height}
  end
end
local classes = net(nn.tensor(cells)):argmax(2):totable()
local picture = {}
for i, class in ipairs(classes) do picture[i] = class == 1 and "." or " " end
for i, point in ipairs(x:totable()) do
  local column = math.floor((point[1] + 1.1) / 2.2 * width) + 1
  local row = math.floor((1.1 - point[2]) / 2.2 * height) + 1
  if column >= 1 and column <= width and row >= 1 and row <= height then
    picture[(row - 1) * width + column] = i <= n and "o" or "x"
  end
end
for row = 1, height do print(table.concat(picture, "", (row - 1) * width + 1, row * width)) end
