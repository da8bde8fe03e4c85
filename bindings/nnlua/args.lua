--- Reads the arguments of the library's constructors and functions as ops read theirs: required ones by position,
--- then optional ones by position or by name in a trailing table, false where torch has None.
---
--- A signature is a list of `name:kind`, with `?` behind it where nil is the default and `=value` where another value
--- is; kinds are int, size (an integer, 0 or more), num, flag, string, tensor, list, function, module, any and
--- {word|word}.  `[2]` behind a kind takes one value or a list of two; `|{word|word}` before that lets a word stand
--- for the value.
local native = require "nnlua.native"

local args = {}

--- What a value is called in messages: `the string "abc"`, `a tensor (2x3)`, `3.5`.
---@param value any
---@return string
function args.describe(value)
  local kind = type(value)
  if native.is_tensor(value) then
    local ok, shape = pcall(function() return tostring(value.shape) end)
    return ok and "a tensor (" .. shape .. ")" or "a freed tensor"
  end
  if kind == "string" then return ('the string "%s"'):format(value) end
  if kind == "number" or kind == "boolean" or value == nil then return tostring(value) end
  local name = kind == "table" and getmetatable(value) and getmetatable(value).__name
  return "a " .. (name or kind)
end

--- The message for a name that is not among the known ones.
---@param what string
---@param word string
---@param names string[]
---@return string
function args.unknown(what, word, names)
  local near = native.nearest(word, names)
  if near then return ("there is no %s '%s' (did you mean '%s'?)"):format(what, word, near) end
  return ("there is no %s '%s'; there are: %s"):format(what, word, table.concat(names, ", "))
end

---------------------------------------------------------------- kinds

local function integer(value) return type(value) == "number" and math.tointeger(value) or nil end

-- Each gives the value to use, or nil when it does not fit.
local checks = {
  int = integer,
  size = function(value)
    value = integer(value)
    return value and value >= 0 and value or nil
  end,
  num = function(value) return type(value) == "number" and value or nil end,
  flag = function(value)
    if type(value) == "boolean" then return value end
  end,
  string = function(value) return type(value) == "string" and value or nil end,
  tensor = function(value) return native.is_tensor(value) and value or nil end,
  list = function(value) return type(value) == "table" and getmetatable(value) == nil and value or nil end,
  sizes = function(value) return type(value) == "table" and value or nil end,
  module = function(value)
    return type(value) == "table" and getmetatable(value) and getmetatable(value).is_module and value or nil
  end,
  any = function(value) return value end,
}
checks["function"] = function(value)
  local meta = getmetatable(value)
  return (type(value) == "function" or type(meta) == "table" and meta.__call) and value or nil
end

local wanted = {
  int = "an integer", size = "a size (an integer, 0 or more)", num = "a number", flag = "true or false",
  string = "a string", tensor = "a tensor", list = "a list", sizes = "a list of sizes", module = "a module",
  any = "given",
}
wanted["function"] = "a function"

local function quoted_words(words)
  local list = {}
  for word in words:gmatch "[^|]+" do list[#list + 1] = word end
  return list
end

---------------------------------------------------------------- signatures

local function literal(text, kind)
  if kind == "flag" then return text == "true" end
  if kind == "num" or kind == "int" or kind == "size" or text:find "^{" then return load("return " .. text)() end
  return text
end

local function parse_one(item)
  local name, kind, rest = item:match "^%s*([%w_]+):([%a]+)(.*)$"
  local param = {name = name, kind = kind}
  if not name then
    param.name, kind, rest = item:match "^%s*([%w_]+):(%b{})(.*)$"
    param.kind, param.words = "word", quoted_words(kind:sub(2, -2))
  end
  local alternatives = rest:match "^|(%b{})"
  if alternatives then
    param.alternatives, rest = quoted_words(alternatives:sub(2, -2)), rest:sub(#alternatives + 2)
  end
  local count = rest:match "^%[(%d+)%]"
  if count then
    param.count, rest = tonumber(count), rest:gsub("^%[%d+%]", "")
  end
  if rest:find "^%?" then param.optional = true end
  local default = rest:match "^=(.*)$"
  if default then
    param.optional, param.text = true, default
    param.default = literal(default, param.kind)
  end
  return param
end

--- A signature as a list of parameters: {name, kind, optional, default, text (of the default), words, alternatives,
--- count}.
---@param signature string
---@return table[]
function args.parse(signature)
  local params = {}
  -- commas inside braces belong to words and lists
  local flat = signature:gsub("%b{}", function(braced) return (braced:gsub(",", "\0")) end)
  for item in flat:gmatch "[^,]+" do params[#params + 1] = parse_one((item:gsub("\0", ","))) end
  return params
end

-- The parameters, parsed when they are first looked at: most classes are never used in a script.
local function parsed_late(signature)
  local function fill(params)
    setmetatable(params, nil)
    for i, param in ipairs(args.parse(signature)) do params[i] = param end
    return params
  end
  return setmetatable({}, {
    __index = function(params, place) return fill(params)[place] end,
    __len = function(params) return #fill(params) end,
  })
end

-- The place of the last parameter that has no default.
local function last_required(params)
  local last = 0
  for i, param in ipairs(params) do
    if not param.optional then last = i end
  end
  return last
end

---------------------------------------------------------------- reading

local function convert(owner, param, value)
  if value == false and param.optional and param.kind ~= "flag" and param.kind ~= "any" then return nil end
  local result
  local words = param.words or type(value) == "string" and param.alternatives
  if words then
    for _, word in ipairs(words) do
      if word == value then return value end
    end
    if type(value) == "string" then
      native.raise(('%s: %s is "%s", but it can be: %s'):format(owner, param.name, value, table.concat(words, ", ")))
    end
  elseif param.count and type(value) == "table" then
    result = #value == param.count and {} or nil
    for i = 1, result and #value or 0 do
      result[i] = checks[param.kind](value[i])
      if result[i] == nil then result = nil break end
    end
  else
    result = checks[param.kind](value)
  end
  if result ~= nil then return result end
  local want = param.words and "one of the strings " .. table.concat(param.words, ", ") or wanted[param.kind]
  if param.count then want = want .. " or a list of " .. param.count end
  if param.alternatives then want = want .. " or one of the strings " .. table.concat(param.alternatives, ", ") end
  native.raise(("%s: %s must be %s, got %s"):format(owner, param.name, want, args.describe(value)))
end
args.convert = convert

--- Whether a table names options: string keys, or empty where options may stand.  A mixture is an error.
---@param owner string
---@param value any
---@param may_be_empty boolean
---@return boolean
function args.is_options(owner, value, may_be_empty)
  if type(value) ~= "table" or getmetatable(value) ~= nil then return false end
  if next(value) == nil then return may_be_empty end
  local positions, name
  for key in pairs(value) do
    if type(key) == "string" then name = key else positions = true end
  end
  if name and positions then
    native.raise(("%s: a table is a list or names options, not both (it has positions and '%s')"):format(owner, name))
  end
  return name ~= nil
end

local function names_of(params)
  local names = {}
  for i, param in ipairs(params) do names[i] = param.name end
  return names
end

local function read_options(owner, params, values, options)
  local place = {}
  for i, param in ipairs(params) do place[param.name] = i end
  for key, value in pairs(options) do
    local i = place[key]
    if not i then native.raise(owner .. ": " .. args.unknown("option", key, names_of(params))) end
    if values[i] ~= nil then
      native.raise(("%s: %s is given twice, as an argument and as an option"):format(owner, key))
    end
    values[i] = value
  end
end

local function too_many(owner, most, got)
  if most == 0 then native.raise(("%s: takes no arguments, got %d"):format(owner, got)) end
  native.raise(("%s: takes at most %d argument%s, got %d; put a call that gives several results in parentheses, "
    .. "as in f((g(x)))"):format(owner, most, most == 1 and "" or "s", got))
end

--- Raises when more than `most` arguments are given; nils at the end do not count.
---@param owner string
---@param most integer
---@param ... any
function args.at_most(owner, most, ...)
  local count = select("#", ...)
  while count > most and (select(count, ...)) == nil do count = count - 1 end
  if count > most then too_many(owner, most, count) end
end

--- Makes methods say what is wrong when they are called with a dot, net.train() for net:train(), or with more
--- arguments than they take.
---@param class table
---@param example string
---@param is_own fun(value: any): boolean
---@param most table<string, integer> arguments besides self, by the method's name
function args.guard_methods(class, example, is_own, most)
  for name, limit in pairs(most) do
    local method = class[name]
    class[name] = function(self, ...)
      if not is_own(self) then
        native.raise(("%s: it is a method, call it with a colon, as in %s:%s()"):format(name, example, name))
      end
      if select("#", ...) > limit then args.at_most(name, limit, ...) end
      return method(self, ...)
    end
  end
end

--- A function that reads (...) by a signature and returns the values in its order.
---@param owner string stands before messages
---@param signature string
---@return fun(...): ...
---@return table[] params
function args.reader(owner, signature)
  local params = parsed_late(signature)
  local required
  return function(...)
    required = required or last_required(params)
    local values, count = {...}, select("#", ...)
    local meta = type(values[1]) == "table" and getmetatable(values[1])
    if type(meta) == "table" and meta.is_namespace then
      native.raise(("%s: it is called with a dot, as in %s.%s(...)"):format(owner, meta.__name, owner))
    end
    while count > 0 and values[count] == nil do count = count - 1 end
    local options
    if count > 0 and args.is_options(owner, values[count], count > required) then
      options, values[count] = values[count], nil
      count = count - 1
    end
    if count > #params then too_many(owner, #params, count) end
    if options then read_options(owner, params, values, options) end
    for i, param in ipairs(params) do
      if values[i] ~= nil then
        values[i] = convert(owner, param, values[i])
      elseif param.optional then
        values[i] = param.default
      else
        native.raise(("%s: %s is missing"):format(owner, param.name))
      end
    end
    return table.unpack(values, 1, #params)
  end, params
end

return args
