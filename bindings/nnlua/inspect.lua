--- How the prompt shows values: as print does, but plain tables with what they hold.
local WIDTH, MOST, DEPTH = 90, 40, 4

local function is_name(key) return type(key) == "string" and key:find "^[%a_][%w_]*$" ~= nil end

local function key_text(key)
  if is_name(key) then return key end
  return ("[%s]"):format(type(key) == "string" and ("%q"):format(key) or tostring(key))
end

-- Names first and in their order, whatever else behind.
local function before(a, b)
  if is_name(a) ~= is_name(b) then return is_name(a) end
  if type(a) == type(b) and (type(a) == "string" or type(a) == "number") then return a < b end
  return type(a) == "string" and type(b) ~= "string"
end

local function indented(text, by) return (text:gsub("\n", "\n" .. (" "):rep(by))) end

local show

local function table_text(value, depth, seen)
  if next(value) == nil then return "{}" end
  if depth > DEPTH or seen[value] then return "{...}" end
  seen[value] = true
  local items, keys, n = {}, {}, #value
  for i = 1, math.min(n, MOST) do items[i] = show(value[i], depth + 1, seen) end
  for key in pairs(value) do
    if not (math.type(key) == "integer" and key >= 1 and key <= n) then keys[#keys + 1] = key end
  end
  table.sort(keys, before)
  for i = 1, math.min(#keys, MOST) do
    local name = key_text(keys[i])
    items[#items + 1] = name .. " = " .. indented(show(value[keys[i]], depth + 1, seen), 2)
  end
  if n > MOST or #keys > MOST then items[#items + 1] = "..." end
  seen[value] = nil
  local line = "{" .. table.concat(items, ", ") .. "}"
  if #line <= WIDTH and not line:find "\n" then return line end
  for i, item in ipairs(items) do items[i] = indented(item, 2) end
  return "{\n  " .. table.concat(items, ",\n  ") .. "\n}"
end

function show(value, depth, seen)
  if type(value) == "string" and depth > 0 then return ("%q"):format(value) end
  if type(value) ~= "table" then return tostring(value) end
  local meta = getmetatable(value)
  if meta ~= nil and (type(meta) ~= "table" or rawget(meta, "__tostring") or rawget(meta, "__name")) then
    return tostring(value)
  end
  return table_text(value, depth, seen)
end

--- Prints the values; the texts of all stand in one line, or below each other when one has several.
return function(...)
  local texts = table.pack(...)
  for i = 1, texts.n do texts[i] = show(texts[i], 0, {}) end
  local line = table.concat(texts, "\t", 1, texts.n)
  print(line:find "\n" and table.concat(texts, "\n", 1, texts.n) or line)
end
