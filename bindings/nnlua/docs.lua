--- What `nnlua help NAME` says of classes and functions of the library: a text for each of them, by value.
local args = require "nnlua.args"

--- text: value -> what is shown; entries: value -> {name, signature, doc, example}.
local docs = {text = {}, entries = setmetatable({}, {__mode = "k"})}

--- "in_features, out_features, bias = true"
---@param signature string
---@return string
function docs.readable(signature)
  local parts = {}
  for i, param in ipairs(args.parse(signature)) do
    parts[i] = param.name
    if param.text then
      parts[i] = param.name .. " = " .. (param.words and ('"%s"'):format(param.text) or param.text)
    elseif param.optional then
      parts[i] = ("[%s]"):format(param.name)
    end
  end
  return table.concat(parts, ", ")
end

-- Lines of at most 90 characters.
local function wrapped(text)
  local lines, line = {}, ""
  for word in text:gmatch "%S+" do
    if line ~= "" and #line + #word + 1 > 90 then
      lines[#lines + 1], line = line, word
    else
      line = line == "" and word or line .. " " .. word
    end
  end
  lines[#lines + 1] = line
  return table.concat(lines, "\n")
end

--- Notes a class or a function; `name` is what stands behind "nn.".  Its text is made when it is asked for.
---@param value any
---@param name string
---@param signature string
---@param doc string
---@param example string?
function docs.add(value, name, signature, doc, example)
  docs.entries[value] = {name = name, signature = signature, doc = doc, example = example}
end

local function text_of(_, value)
  local entry = docs.entries[value]
  if not entry then return nil end
  local text = ("nn.%s(%s)\n\n%s"):format(entry.name, docs.readable(entry.signature), wrapped(entry.doc))
  if entry.example then text = text .. "\n\nExample:  " .. entry.example end
  docs.text[value] = text
  return text
end
setmetatable(docs.text, {__mode = "k", __index = text_of})

return docs
