-- What `nnlua help`, `nnlua info`, nn.help and the prompt's completion know: it all comes from the records of
-- the ops and from the doc fields of modules and functions.
local native = require "nnlua.native"

local help = {}

local type_words = {
  any = "tensor", number = "tensor (no bool)", real = "tensor (integers become f32)", float = "tensor (f32, f64)",
  integral = "tensor (u8, i32, i64)", bool = "tensor (bool)", index = "positions (integers, from 1)",
  int = "integer", size = "size", num = "number", scalar = "number or boolean", flag = "boolean",
  dim = "dimension (from 1, or -1 backwards)", newdim = "dimension (from 1, or -1 backwards)",
  pos = "position (from 1, or -1 backwards)", dtype = "type name", string = "string", word = "word",
}

local function default_text(param)
  local value = param.default
  if type(value) == "string" then return '"' .. value .. '"' end
  return tostring(value)
end

--- "softmax(input, dim = -1)"
local function call_text(record)
  local parts = {}
  for _, p in ipairs(record.params) do
    local text = p.name
    if p.variadic then text = text .. "..."
    elseif p.list then text = "{" .. text .. "}" end
    if p.default ~= nil then text = text .. " = " .. default_text(p)
    elseif p.optional then text = "[" .. text .. "]" end
    parts[#parts + 1] = text
  end
  return record.name .. "(" .. table.concat(parts, ", ") .. ")"
end

local function param_line(p, width)
  local what = p.words and table.concat(p.words, " | ") or type_words[p.type] or p.type
  if p.scalar then what = what .. " or number" end
  if p.list or p.variadic then what = what .. "; a list" .. (p.variadic and ", or several arguments" or "") end
  if p.count then what = what .. ("; one, or a list of %d"):format(p.count) end
  if p.default ~= nil then what = what .. "; default " .. default_text(p)
  elseif p.optional then what = what .. "; optional" end
  return ("  %-" .. width .. "s  %s"):format(p.name, what)
end

local function wrap(text, width)
  local lines, line = {}, ""
  for word in text:gmatch "%S+" do
    if #line + #word + 1 > width and line ~= "" then
      lines[#lines + 1] = line
      line = word
    else
      line = line == "" and word or line .. " " .. word
    end
  end
  lines[#lines + 1] = line
  return table.concat(lines, "\n")
end

local function op_text(record)
  local out = {call_text(record), "", wrap(record.doc or "", 90), ""}
  local width = 4
  for _, p in ipairs(record.params) do width = math.max(width, #p.name) end
  for _, p in ipairs(record.params) do out[#out + 1] = param_line(p, width) end
  local results = {}
  for _, r in ipairs(record.results) do
    if not r.hidden then results[#results + 1] = r.name .. (r.list and " ..." or "") end
  end
  if #results > 0 then out[#out + 1] = ("  %-" .. width .. "s  %s"):format("->", table.concat(results, ", ")) end
  local also = {"nn." .. record.name, "nn.F." .. record.name}
  local first = record.params[1]
  if first and first.tensor and not first.list and not record.traits.no_method then also[#also + 1] = "x:" .. record.name end
  if record.traits.inplace then also[#also + 1] = "in place: x:" .. record.name .. "_" end
  out[#out + 1] = ""
  out[#out + 1] = "As " .. table.concat(also, ", ") .. "."
  if record.no_grad then out[#out + 1] = "No gradient: " .. record.no_grad .. "." end
  if record.example then out[#out + 1] = "\nExample:  " .. record.example end
  return table.concat(out, "\n") .. "\n"
end

local function find_op(name)
  for _, record in ipairs(native.ops()) do
    if record.name == name and not record.traits.hidden then return record end
  end
end

--- A dotted name ("optim.Adam", "Linear", "nn.data.Loader") in the library.
local function find_value(name)
  local value = require "nnlua"
  for part in name:gsub("^nn%.", ""):gmatch "[^.]+" do
    if type(value) ~= "table" then return nil end
    value = rawget(value, part)
    if value == nil then return nil end
  end
  return value
end

local function value_text(name, value)
  local docs = require "nnlua".docs or {}
  local doc = type(value) == "table" and rawget(value, "doc") or docs[value] or docs[name]
  if not doc then return nil end
  local signature = type(value) == "table" and rawget(value, "signature")
  local example = type(value) == "table" and rawget(value, "example")
  local out = {}
  if signature then out[#out + 1] = signature .. "\n" end
  out[#out + 1] = doc
  if example then out[#out + 1] = "\nExample:  " .. example end
  return table.concat(out, "\n") .. "\n"
end

local function overview()
  local names, out = {}, {}
  for _, record in ipairs(native.ops()) do
    if not record.traits.hidden then names[#names + 1] = record.name end
  end
  out[1] = "nnlua help NAME shows an op, a module, a loss or an optimizer: nnlua help relu, nnlua help Linear\n"
  out[2] = "Ops (nn.NAME, mostly also x:NAME):"
  out[3] = wrap(table.concat(names, " "), 96) .. "\n"
  local classes, nn = {}, require "nnlua"
  for name, value in pairs(nn) do
    if type(value) == "table" and type(name) == "string" and name:match "^%u" and name ~= "F" then classes[#classes + 1] = name end
  end
  table.sort(classes)
  out[4] = "Modules and losses:"
  out[5] = wrap(table.concat(classes, " "), 96) .. "\n"
  out[6] = "Libraries: nn.optim, nn.init, nn.utils, nn.data, nn.functional"
  return table.concat(out, "\n") .. "\n"
end

--- The text for a name; nil, after saying so, when there is none.
---@param name string?
---@return string?
function help.show(name)
  if not name then return overview() end
  local bare = name:gsub("^nn%.F%.", ""):gsub("^nn%.functional%.", ""):gsub("^nn%.", ""):gsub("^x:", "")
  local record = find_op(bare) or find_op((bare:gsub("_$", "")))
  if record then return op_text(record) end
  local value = find_value(bare)
  local text = value ~= nil and value_text(bare, value)
  if text then return text end
  local names = {}
  for _, r in ipairs(native.ops()) do names[#names + 1] = r.name end
  for key in pairs(require "nnlua") do names[#names + 1] = key end
  local near = native.nearest(bare, names)
  io.stderr:write("nnlua: there is no help for ", name, near and (" (did you mean " .. near .. "?)") or "", "\n")
end

---@return string
function help.info()
  local i = native.info()
  local lines = {
    "nnlua " .. i.version .. ", " .. _VERSION,
    ("instruction set  %s (this machine: %s)"):format(i.isa, table.concat(i.isas, ", ")),
    ("threads          %d of %d processors"):format(i.threads, i.processors),
    "BLAS             " .. i.blas,
    "zlib             " .. (i.zlib and "yes" or "no: .gz files cannot be read"),
    "ops              " .. i.ops,
  }
  return table.concat(lines, "\n") .. "\n"
end

--- Candidates for the word that ends `line`: ops and modules after nn., methods after a colon, fields of
--- tables, globals.
---@param line string
---@param word string
---@return string[]
function help.complete(line, word)
  local found, seen = {}, {}
  local prefix, colon, start = word:match "^(.-)([.:])([%w_]*)$"
  if not prefix then prefix, start = "", word end
  local function offer(name)
    if type(name) == "string" and name:sub(1, #start) == start and not name:match "^__" and not seen[name] then
      seen[name] = true
      found[#found + 1] = (prefix ~= "" and prefix .. colon or "") .. name
    end
  end
  local value = _G
  for part in prefix:gmatch "[%a_][%w_]*" do
    local ok, next_value = pcall(function() return value[part] end)
    value = ok and next_value or nil
    if value == nil then break end
  end
  if native.is_tensor(value) then
    for name in pairs(native.methods) do offer(name) end
    if colon == "." then for _, name in ipairs {"shape", "dtype", "grad", "requires_grad"} do offer(name) end end
  elseif type(value) == "table" then
    local at = value
    for _ = 1, 8 do
      for name in pairs(at) do offer(name) end
      local meta = getmetatable(at)
      at = type(meta) == "table" and rawget(meta, "__index")
      if type(at) ~= "table" then break end
    end
  elseif type(value) == "string" then
    for name in pairs(string) do offer(name) end
  elseif colon == ":" then -- an expression's result, as in f(x):re
    for name in pairs(native.methods) do offer(name) end
  end
  if prefix == "" and line:match ":$" then for name in pairs(native.methods) do offer(name) end end
  table.sort(found)
  return found
end

return help
