--- Lua values as JSON: a list is an array, any other table an object with sorted keys.
---@param value any
---@param indent string?
---@return string
local function encode(value, indent)
  indent = indent or ""
  if type(value) == "string" then
    return '"' .. value:gsub('[%c"\\]', function(c) return ("\\u%04x"):format(c:byte()) end) .. '"'
  elseif type(value) ~= "table" then
    return tostring(value)
  end
  local inner, parts = indent .. "  ", {}
  if #value > 0 then
    for i, item in ipairs(value) do parts[i] = encode(item, inner) end
    return "[" .. table.concat(parts, ", ") .. "]"
  end
  local keys = {}
  for key in pairs(value) do keys[#keys + 1] = key end
  table.sort(keys)
  for i, key in ipairs(keys) do parts[i] = ("%s%s: %s"):format(inner, encode(key), encode(value[key], inner)) end
  return "{\n" .. table.concat(parts, ",\n") .. "\n" .. indent .. "}"
end

return encode
