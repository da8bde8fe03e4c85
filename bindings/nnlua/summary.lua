--- net:summary(...): what each layer makes of inputs of given shapes.
local Module = require "nnlua.module"
local args = require "nnlua.args"
local native = require "nnlua.native"
local tree = require "nnlua.tree"

local function input_of(shape, i)
  if native.is_tensor(shape) then return shape end
  if type(shape) ~= "table" then
    native.raise(("summary: input %d must be a shape as {64, 784} or a tensor, got %s"):format(i,
      args.describe(shape)))
  end
  return native.zeros(shape)
end

-- Parameters directly in a module, not in those inside.
local function own_parameters(module)
  local count, seen = 0, {}
  tree.walk(module, {parameter = function(name, p)
    if not name:find(".", 1, true) and not seen[p] then
      seen[p] = true
      count = count + p:numel()
    end
  end})
  return count
end

local function shape_text(...)
  local shapes = {}
  for i = 1, select("#", ...) do
    local value = (select(i, ...))
    if type(value) == "table" and #value > 0 then -- as a recurrent state is
      shapes[i] = "{" .. shape_text(table.unpack(value)) .. "}"
    else
      shapes[i] = native.is_tensor(value) and tostring(value.shape) or "?"
    end
  end
  return table.concat(shapes, ", ")
end

-- 1234567 -> "1 234 567"
local function grouped(n)
  local text = ("%d"):format(n)
  return (text:reverse():gsub("(%d%d%d)", "%1 "):reverse():gsub("^ ", ""))
end

-- One row a call of a module, in the order in which they begin; only modules without modules inside count.
local function watch_calls(net, inputs)
  local names, rows = {}, {}
  for name, module in net:named_modules() do names[module] = name end
  local counted = {}
  Module.observe(function(module, forward, ...)
    local leaf = #tree.children(module) == 0
    local row = {name = names[module] or "", type = module.__name, leaf = leaf, parameters = 0, flops = 0}
    if names[module] then rows[#rows + 1] = row end
    local results = table.pack(forward(module, ...))
    row.output = shape_text(table.unpack(results, 1, results.n))
    if not counted[module] then
      counted[module] = true
      row.parameters = own_parameters(module)
    end
    local output = results[1]
    if module.flops then
      row.flops = module:flops(output, ...)
    elseif leaf and native.is_tensor(output) then
      row.flops = output:numel()
    end
    return table.unpack(results, 1, results.n)
  end, function() native.no_grad(net, table.unpack(inputs)) end)
  return rows
end

local function as_text(net, rows)
  local header = {"layer", "output", "parameters", "FLOPs"}
  local lines, widths = {header}, {}
  local parameters, flops = 0, 0
  for _, row in ipairs(rows) do
    local label = row.name == "" and row.type or ("%s (%s)"):format(row.name, row.type)
    lines[#lines + 1] = {label, row.output, grouped(row.parameters), row.flops > 0 and grouped(row.flops) or "-"}
    flops = flops + row.flops
  end
  for _, p in ipairs(net:parameters()) do parameters = parameters + p:numel() end
  lines[#lines + 1] = {"in all", "", grouped(parameters), grouped(flops)}
  for _, line in ipairs(lines) do
    for c, cell in ipairs(line) do widths[c] = math.max(widths[c] or 0, #cell) end
  end
  local out = {}
  for i, line in ipairs(lines) do
    if i == #lines then out[#out + 1] = ("-"):rep(widths[1] + widths[2] + widths[3] + widths[4] + 6) end
    out[#out + 1] = ("%-" .. widths[1] .. "s  %-" .. widths[2] .. "s  %" .. widths[3] .. "s  %" .. widths[4] .. "s")
      :format(table.unpack(line))
    if i == 1 then out[#out + 1] = ("-"):rep(widths[1] + widths[2] + widths[3] + widths[4] + 6) end
  end
  return table.concat(out, "\n")
end

--- Module.summary: shapes or tensors, then options.
return function(net, ...)
  local given, count = {...}, select("#", ...)
  local rows_wanted = false
  if count > 1 and args.is_options("summary", given[count], false) then
    rows_wanted = args.reader("summary", "rows:flag=false")(given[count])
    count = count - 1
  end
  if count == 0 then native.raise "summary: the shape of an input is missing, as in net:summary({64, 784})" end
  local inputs = {}
  for i = 1, count do inputs[i] = input_of(given[i], i) end
  local modes = {}
  for _, module in ipairs(net:modules()) do modes[module] = module.training end
  net:eval() -- so that running statistics and random numbers stay as they are
  local ok, rows = pcall(watch_calls, net, inputs)
  for module, training in pairs(modes) do rawset(module, "training", training) end
  if not ok then error(rows, 0) end
  return rows_wanted and rows or as_text(net, rows)
end
