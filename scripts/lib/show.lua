-- What the examples show on a terminal: options, progress, confusion matrix, small images.
local nn = require "nnlua"

local show = {}

--- Reads --name value pairs; the defaults say which names there are and whether they are numbers.
---@param list string[]
---@param defaults table
---@return table
function show.options(list, defaults)
  local options = {}
  for name, value in pairs(defaults) do options[name] = value end
  local i = 1
  while i <= #list do
    local name = list[i]:match "^%-%-([%w_]+)$"
    local value = list[i + 1]
    if not name or defaults[name] == nil then
      local names = {}
      for known in pairs(defaults) do names[#names + 1] = "--" .. known end
      table.sort(names)
      error(("unknown option %s; there are %s"):format(list[i], table.concat(names, " ")), 0)
    end
    if value == nil then error("--" .. name .. " wants a value", 0) end
    local numeric = type(defaults[name]) == "number" or name == "threads"
    options[name] = numeric and tonumber(value) or value
    if numeric and not tonumber(value) then error(("--%s wants a number, got %s"):format(name, value), 0) end
    if math.tointeger(options[name]) and math.type(defaults[name]) ~= "float" then
      options[name] = math.tointeger(options[name])
    end
    i = i + 2
  end
  return options
end

local terminal -- whether lines may be redrawn
local function is_terminal()
  if terminal == nil then terminal = (os.execute "test -t 1") == true and os.getenv "TERM" ~= "dumb" end
  return terminal
end

local Progress = {}
Progress.__index = Progress

--- A bar with loss, samples/s and time left on a terminal; one line an epoch elsewhere.
---@param title string
---@param total integer
function show.progress(title, total)
  local now = nn.clock()
  return setmetatable({title = title, total = total, done = 0, start = now, shown = now, losses = {}}, Progress)
end

--- Counts a batch; the loss is read only now and then, so that showing costs nothing.
---@param count integer
---@param loss any
function Progress:add(count, loss)
  self.done = self.done + count
  self.losses[#self.losses + 1] = loss:detach()
  if not is_terminal() then return end
  local now = nn.clock()
  if now - self.shown < 0.1 then return end
  self.shown = now
  local rate = self.done / (now - self.start)
  local filled = self.done * 24 // self.total
  io.write(("\r%s [%s%s] %3d %%  loss %.4f  %.0f samples/s  %.0f s left "):format(self.title, ("#"):rep(filled),
    ("."):rep(24 - filled), self.done * 100 // self.total, loss:item(), rate, (self.total - self.done) / rate))
  io.flush()
end

---@param text string
function Progress:finish(text)
  local seconds = nn.clock() - self.start
  local mean = nn.stack(self.losses):mean():item()
  if is_terminal() then io.write("\r\27[K") end
  print(("%s  loss %.4f  %s  (%.1f s, %.0f samples/s)"):format(self.title, mean, text, seconds, self.done / seconds))
end

--- Rows: what the images are; columns: what the network said.
function show.confusion(labels, predicted, classes)
  local n = #classes
  local counts = nn.bincount((labels - 1) * n + predicted, {minlength = n * n}):totable()
  -- bincount counts values from 1, as labels do
  local width = 0
  for _, class in ipairs(classes) do width = math.max(width, #class) end
  print "\nConfusion matrix (rows: the truth; columns: the network's answer)"
  local head = {}
  for column = 1, n do head[column] = ("%5s"):format(classes[column]:sub(1, 4)) end
  print((" "):rep(width) .. table.concat(head))
  for row = 1, n do
    local line = {}
    for column = 1, n do
      local count = counts[(row - 1) * n + column] or 0
      line[column] = count == 0 and "    ." or ("%5d"):format(count)
    end
    print(("%-" .. width .. "s%s"):format(classes[row], table.concat(line)))
  end
end

--- An image in half-block characters' shades, two columns a pixel.
local function draw(image)
  local shades = {" ", ".", ":", "-", "=", "+", "*", "#", "%", "@"}
  local lines = {}
  for r, row in ipairs(image) do
    local line = {}
    for c, value in ipairs(row) do line[c] = shades[math.min(10, math.floor(value * 9.999) + 1)]:rep(2) end
    lines[r] = table.concat(line)
  end
  return lines
end

--- Draws the first few images on which the network was wrong.
function show.mistakes(images, labels, predicted, classes, count)
  local wrong = predicted:ne(labels):nonzero():flatten():totable()
  if #wrong == 0 then return end
  print(("\n%d of %d are wrong; the first:"):format(#wrong, #labels))
  for i = 1, math.min(count, #wrong) do
    local place = wrong[i]
    local image = images[place]:to("f32")
    local size = images.shape
    local pixels = image:reshape(size[#size - 1], size[#size]):totable()
    print(("\n%s, taken for %s"):format(classes[labels[place]:item()], classes[predicted[place]:item()]))
    for _, line in ipairs(draw(pixels)) do print(line) end
  end
end

return show
