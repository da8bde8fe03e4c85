--- The library's types for editors (LuaCATS), written from the records of the ops, the signatures of the classes and
--- the doc comments of the sources:  nnlua annotations > nnlua.d.lua
local native = require "nnlua.native"
local args = require "nnlua.args"
local docs = require "nnlua.docs"
local manual = require "nnlua.manual"
local sources = require "nnlua.sources"

local annotations = {}

local TENSOR = "nnlua.Tensor"

-- The text as comment lines.
local function comment(out, text)
  local line = "---"
  for word in (text or ""):gmatch "%S+" do
    if #line + #word + 1 > 110 then
      out[#out + 1], line = line, "---"
    end
    line = line .. " " .. word
  end
  if line ~= "---" then out[#out + 1] = line end
end

local function example(out, text)
  if not text then return end
  out[#out + 1] = "---"
  out[#out + 1] = "--- `" .. text .. "`"
end

local function union(words)
  local quoted = {}
  for i, word in ipairs(words) do quoted[i] = ('"%s"'):format(word) end
  return table.concat(quoted, "|")
end

---------------------------------------------------------------- ops

local op_types = {
  int = "integer", size = "integer", num = "number", scalar = "number|boolean", flag = "boolean", dim = "integer",
  newdim = "integer", pos = "integer", dtype = "nnlua.dtype", string = "string", index = TENSOR .. "|integer[]",
}

local function op_type(p)
  local kind = p.words and union(p.words) or op_types[p.type] or TENSOR
  if p.scalar then kind = kind .. "|number" end
  if p.list and p.tensor then return TENSOR .. "[]" end
  if p.list or p.count then kind = ("%s|(%s)[]"):format(kind, kind):gsub("%((%a+)%)%[", "%1[") end
  if p.alternatives then kind = kind .. "|" .. union(p.alternatives) end
  return kind
end

-- The parts of an op's function; `method`: without the first parameter, which is self.
local function op_function(out, head, record, method)
  local names, required, optional, first = {}, {}, {}, method and 2 or 1
  comment(out, record.doc)
  example(out, record.example)
  for i = first, #record.params do
    local p = record.params[i]
    local kind = op_type(p)
    local may = p.optional or p.default ~= nil
    if p.variadic then
      names[#names + 1] = "..."
      out[#out + 1] = ("---@param ... %s|(%s)[]|table %s, then options"):format(kind, kind, p.name)
      break
    end
    local name = p.name == "end" and "end_" or p.name
    names[#names + 1] = name
    out[#out + 1] = ("---@param %s%s %s"):format(name, may and "?" or "", kind)
    if may then optional[#optional + 1] = ("%s: (%s)?"):format(p.name, kind)
    else required[#required + 1] = ("%s: %s"):format(name, kind) end
  end
  local results = {}
  for _, r in ipairs(record.results) do
    if not r.hidden then results[#results + 1] = ("---@return %s %s"):format(TENSOR, r.list and "..." or r.name) end
  end
  table.move(results, 1, #results, #out + 1, out)
  if #optional > 0 and names[#names] ~= "..." then
    local list = {}
    for i = 1, #results do list[i] = TENSOR end
    if method then table.insert(required, 1, "self: " .. TENSOR) end
    required[#required + 1] = "options: {" .. table.concat(optional, ", ") .. "}"
    out[#out + 1] = ("---@overload fun(%s)%s"):format(table.concat(required, ", "),
      #list > 0 and ": " .. table.concat(list, ", ") or "")
  end
  local owner, dot, name = head:match "^(.+)([.:])([%w_]+)$"
  if load(("local %s"):format(name)) then
    out[#out + 1] = ("function %s(%s) end\n"):format(head, table.concat(names, ", "))
  else -- a word of Lua's own
    if dot == ":" then table.insert(names, 1, "self") end
    out[#out + 1] = ('%s["%s"] = function(%s) end\n'):format(owner, name, table.concat(names, ", "))
  end
end

local function ops(out)
  for _, record in ipairs(native.ops()) do
    local name, first = record.name, record.params[1]
    if not record.traits.hidden then
      if rawget(require "nnlua", name) == native[name] then
        op_function(out, "nn." .. name, record, false)
        out[#out + 1] = ('nn.functional["%s"] = nn["%s"]\n'):format(name, name)
      end
      if first and first.tensor and not first.list then
        if native.methods[name] then op_function(out, "Tensor:" .. name, record, true) end
        if native.methods[name .. "_"] then op_function(out, ("Tensor:%s_"):format(name), record, true) end
      end
    end
  end
end

---------------------------------------------------------------- functions, methods and fields of the binding

local function manual_function(out, head, entry)
  comment(out, entry.doc)
  example(out, entry.example)
  local names = {}
  for name, kind in entry.params:gmatch "([%w_.]+) ([^;]+)" do
    names[#names + 1] = name
    out[#out + 1] = ("---@param %s %s"):format(name, kind)
  end
  -- several results are separated by commas outside of braces
  local flat = entry.returns:gsub("%b{}", function(t) return (t:gsub(",", "\0")) end)
    :gsub("%b<>", function(t) return (t:gsub(",", "\0")) end)
  for result in flat:gmatch "[^,]+" do
    out[#out + 1] = "---@return " .. result:gsub("\0", ","):gsub("^%s+", "")
  end
  out[#out + 1] = ("function %s(%s) end\n"):format(head, table.concat(names, ", "))
end

local function tensor_class(out)
  local operators = {"add", "sub", "mul", "div", "mod", "pow", "idiv", "band", "bor", "bxor"}
  out[#out + 1] = '---@alias nnlua.dtype "f32"|"f64"|"i64"|"i32"|"u8"|"bool"\n'
  out[#out + 1] = "---@class " .. TENSOR
  manual.each(function(entry, kind)
    if kind == "fields" then out[#out + 1] = ("---@field %s %s %s"):format(entry.name, entry.returns, entry.doc) end
  end)
  out[#out + 1] = ("---@field [any] %s"):format(TENSOR)
  for _, operator in ipairs(operators) do
    out[#out + 1] = ("---@operator %s(%s|number): %s"):format(operator, TENSOR, TENSOR)
  end
  for _, operator in ipairs {"unm", "bnot"} do out[#out + 1] = ("---@operator %s: %s"):format(operator, TENSOR) end
  out[#out + 1] = "---@operator len: integer"
  out[#out + 1] = "local Tensor = {}\n"
end

---------------------------------------------------------------- classes and functions of the library

local kinds = {
  int = "integer", size = "integer", num = "number", flag = "boolean", string = "string", tensor = TENSOR,
    list = "table",
  sizes = "integer[]", module = "nnlua.Module", any = "any", ["function"] = "function",
}

-- Names and types of a signature's parameters, and the table that names the optional ones.
local function signature_parts(signature)
  local names, types, options, required = {}, {}, {}, {}
  for i, p in ipairs(args.parse(signature)) do
    local kind = p.words and union(p.words) or kinds[p.kind] or "any"
    if p.count then kind = ("%s|%s[]"):format(kind, kind) end
    if p.alternatives then kind = kind .. "|" .. union(p.alternatives) end
    names[i], types[i] = p.name, kind
    if p.optional then options[#options + 1] = ("%s: (%s)?"):format(p.name, kind)
    else required[#required + 1] = i end
  end
  return names, types, options, #required
end

-- Calls of a constructor: all by position, or the optional ones by name.
local function constructor_lines(entry, class)
  local names, types, options, required = signature_parts(entry.signature)
  local all, by_name = {}, {}
  for i, name in ipairs(names) do
    all[i] = ("%s%s: %s"):format(name, i > required and "?" or "", types[i])
    if i <= required then by_name[i] = all[i] end
  end
  if entry.name == "Sequential" then all = {"...: nnlua.Module"} end
  local lines = {("---@overload fun(%s): nnlua.%s"):format(table.concat(all, ", "), class)}
  if #options > 0 then
    by_name[#by_name + 1] = "options: {" .. table.concat(options, ", ") .. "}"
    lines[2] = ("---@overload fun(%s): nnlua.%s"):format(table.concat(by_name, ", "), class)
  end
  return lines
end

local function library_function(out, entry)
  local names, types, options, required = signature_parts(entry.signature)
  comment(out, entry.doc)
  example(out, entry.example)
  for i, name in ipairs(names) do
    out[#out + 1] = ("---@param %s%s %s%s"):format(name, i > required and "?" or "", types[i],
      i == required + 1 and #options > 0 and "|{" .. table.concat(options, ", ") .. "}" or "")
  end
  out[#out + 1] = "---@return any ..."
  out[#out + 1] = ("function nn.%s(%s) end\n"):format(entry.name, table.concat(names, ", "))
end

local function sorted_entries()
  local list = {}
  for value, entry in pairs(docs.entries) do list[#list + 1] = {value = value, entry = entry} end
  table.sort(list, function(a, b) return a.entry.name < b.entry.name end)
  return list
end

local function library(out)
  local classes, methods = sources.read()
  local written = {}
  local function class_block(name, lines, parent)
    if written[name] then return end
    written[name] = true
    out[#out + 1] = ("---@class nnlua.%s%s"):format(name, parent and " : " .. parent or "")
    for _, line in ipairs(lines) do out[#out + 1] = line end
  end
  local function own_fields(name)
    local lines = {}
    for _, line in ipairs(classes[name] and classes[name].lines or {}) do
      if line:find "^%-%-%-@field" or line:find "^%-%-%-@operator" then lines[#lines + 1] = line end
    end
    return lines
  end
  -- classes whose objects others make
  for _, name in ipairs {"Module", "Optimizer", "LRScheduler"} do
    class_block(name, own_fields(name))
    out[#out + 1] = name == "Module" and "nn.Module = {}\n" or ("local %s = {}\n"):format(name)
  end
  for _, item in ipairs(sorted_entries()) do
    local entry, value = item.entry, item.value
    local class = entry.name:match "([%w_]+)$"
    if type(value) == "function" then
      library_function(out, entry)
    elseif entry.name ~= "Module" then -- which is above
      local parent = classes[class] and classes[class].parent
        or type(value) == "table" and rawget(value, "is_module") and "nnlua.Module"
        or entry.name:find "LR$" and "nnlua.LRScheduler" or entry.name:find "^optim%." and "nnlua.Optimizer" or nil
      comment(out, entry.doc)
      example(out, entry.example)
      local lines = own_fields(class)
      table.move(constructor_lines(entry, class), 1, 2, #lines + 1, lines)
      class_block(class, lines, parent)
      out[#out + 1] = ("nn.%s = {}\n"):format(entry.name)
    end
  end
  local place = {Module = "nn.Module", Optimizer = "Optimizer", LRScheduler = "LRScheduler"}
  for _, item in ipairs(sorted_entries()) do
    place[item.entry.name:match "([%w_]+)$"] = "nn." .. item.entry.name
  end
  for _, method in ipairs(methods) do
    if method.dot == ":" and place[method.class] then
      table.move(method.lines, 1, #method.lines, #out + 1, out)
      out[#out + 1] = ("function %s:%s(%s) end\n"):format(place[method.class], method.name, method.args)
    end
  end
end

--- The whole file.
---@return string
function annotations.text()
  local out = {"---@meta nnlua", "-- Written by `nnlua annotations`, version " .. native.version .. ".\n",
    "local nn = {}\n",
    "nn.functional, nn.optim, nn.init, nn.utils, nn.data = {}, {}, {}, {}, {}", "nn.F = nn.functional\n"}
  require "nnlua"
  tensor_class(out)
  ops(out)
  manual.each(function(entry, kind)
    if kind == "functions" then manual_function(out, "nn." .. entry.name, entry)
    elseif kind == "methods" then manual_function(out, "Tensor:" .. entry.name, entry) end
  end)
  library(out)
  out[#out + 1] = "return nn"
  return table.concat(out, "\n") .. "\n"
end

return annotations
