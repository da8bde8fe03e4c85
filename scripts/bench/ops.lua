-- Our side of `make bench-ops`: microseconds of each op of ops.txt, as name, time and unit, tab-separated.
-- What this build lacks is skipped with a word.
--
--   nnlua scripts/bench/ops.lua [--threads 2] [--seconds 0.2] [--list | --serve] [BEGINNING OF A NAME ...]
local nn = require "nnlua"
local folder = arg[0]:match "^(.*/)" or ""
local measure, models = dofile(folder .. "measure.lua"), dofile(folder .. "models.lua")

local function optimizer(name)
  local net = models.mlp()
  net(nn.rand(64, 784)):sum():backward()
  local made = nn.optim[name](net:parameters(), {lr = 1e-3, momentum = name == "SGD" and 0.9 or nil})
  return function() made:step() end
end

-- What an input of ops.txt describes: its name and value.
local function input(text)
  local name, kind, rest = text:match "^(%w+)([:@])(.+)$"
  if kind == "@" then return name, optimizer(rest) end
  local sizes, mark = rest:match "^([%dx]+)(.*)$"
  local shape = {}
  for size in sizes:gmatch "%d+" do shape[#shape + 1] = math.tointeger(size) end
  local limit = mark:match "^<(%d+)$"
  if limit then return name, nn.randint(1, math.tointeger(limit), shape) end
  if mark == "+" then return name, nn.rand(shape) end
  if mark == "?" then return name, nn.rand(shape):lt(0.5) end
  local value = nn.randn(shape)
  value.requires_grad = mark == "!"
  return name, value, mark == "!"
end

-- The op as a function, and whether gradients are wanted.
local function compile(inputs, code)
  local names, values, differentiable = {"nn", "F"}, {nn, nn.F}, false
  for text in inputs:gmatch "%S+" do
    local name, value, wanted = input(text)
    names[#names + 1], values[#values + 1] = name, value
    differentiable = differentiable or wanted
  end
  local text = ("local %s = ... return function() return %s end"):format(table.concat(names, ", "), code)
  local chunk = assert(load(text, "=" .. code))
  return chunk(table.unpack(values)), differentiable
end

measure.seconds = 0.2
local beginnings = measure.arguments(arg)
local function chosen(name)
  for _, beginning in ipairs(beginnings) do
    if name:sub(1, #beginning) == beginning then return true end
  end
  return #beginnings == 0
end

local names, ops = {}, {}
for line in io.lines(folder .. "ops.txt") do
  local name, inputs, code = line:match "^([^#|]-)%s*|([^|]*)|%s*(.-)%s*|"
  if name and chosen(name) then
    names[#names + 1], ops[name] = name, {inputs = inputs, code = code}
  end
end

nn.manual_seed(0)
measure.run(names, function(name)
  local op = ops[name]
  local step, differentiable = compile(op.inputs, op.code)
  local work = {step = step, unit = "us", scope = not differentiable and nn.no_grad or nil}
  local ok, message = pcall(work.scope or step, step)
  if ok then return work end
  io.stderr:write(("%s: skipped, %s\n"):format(name, (message:gsub("^.-:1: ", ""))))
end)
