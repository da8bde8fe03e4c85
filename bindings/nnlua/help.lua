--- What `nnlua help`, `nnlua info`, nn.help and the prompt's completion know.  It comes from the records of the ops,
--- from the texts that classes and functions of the library have, and from its sources' doc comments.
local native = require "nnlua.native"
local docs = require "nnlua.docs"
local manual = require "nnlua.manual"

local help = {}

local WIDTH = 92

---------------------------------------------------------------- text

-- Words filled into lines that start with the indent.
local function filled(text, indent)
  local lines, line = {}, nil
  for word in text:gmatch "%S+" do
    if line and #indent + #line + #word + 1 > WIDTH then
      lines[#lines + 1], line = indent .. line, word
    else
      line = line and line .. " " .. word or word
    end
  end
  lines[#lines + 1] = line and indent .. line
  return table.concat(lines, "\n")
end

--- What an example gives, as the prompt would show it; nil when it gives nothing or cannot run by itself.
---@param example string
---@return string?
function help.outcome(example)
  local names = example:match "^local ([%w_, ]-) =[^;]*$"
  local env = setmetatable({nn = require "nnlua"}, {__index = _G})
  local chunk = load("return " .. example, "=example", "t", env)
    or load(names and ("%s\nreturn %s"):format(example, names) or example, "=example", "t", env)
  if not chunk then return nil end
  local seed, place = native.rng_state()
  local results = table.pack(pcall(chunk))
  native.set_rng_state(seed, place)
  if not results[1] then return nil end
  local lines = {}
  for i = 2, results.n do lines[#lines + 1] = tostring(results[i]) end
  return lines[1] and table.concat(lines, "\n")
end

local function example_text(example)
  local out = "Example\n\n  " .. example:gsub("; ", "\n  ")
  local outcome = not example:find "[%w_]+%.%a+_save%(" and not example:find "nn%.save%(" and help.outcome(example)
  local _, breaks = (outcome or ""):gsub("\n", "\n  ")
  if outcome and breaks < 12 and not outcome:find "0x%x%x%x%x%x%x" then
    out = out .. "\n\n  " .. outcome:gsub("\n", "\n  ")
  end
  return out
end

-- Head, description, further paragraphs, example.
local function page(call, doc, paragraphs, example)
  local out = {call, doc ~= "" and filled(doc, "") or nil}
  for _, paragraph in ipairs(paragraphs or {}) do out[#out + 1] = paragraph end
  if example then out[#out + 1] = example_text(example) end
  return table.concat(out, "\n\n") .. "\n"
end

---------------------------------------------------------------- ops

local type_words = {
  any = "tensor", number = "tensor (any type but bool)", real = "tensor (integers become f32)",
  float = "tensor (f32, f64)", integral = "tensor (u8, i32, i64)", bool = "tensor (bool)",
  index = "tensor or list of positions, from 1", int = "integer", size = "size", num = "number",
  scalar = "number or boolean", flag = "true or false", dim = "dimension, from 1, or from -1 backwards",
  newdim = "dimension of the result, from 1, or from -1 backwards", pos = "position, from 1, or from -1 backwards",
  dtype = "type: f32, f64, i64, i32, u8, bool", string = "string",
}

local function default_text(param)
  local value = param.default
  if type(value) == "string" then return '"' .. value .. '"' end
  return math.tointeger(value) and ("%d"):format(value) or tostring(value)
end

--- "softmax(input, dim = -1)"
local function call_text(record)
  local parts = {}
  for i, p in ipairs(record.params) do
    local text = p.name
    if p.variadic then text = text .. " ..."
    elseif p.list and p.tensor then text = "{" .. text .. "}" end
    if p.default ~= nil then text = text .. " = " .. default_text(p)
    elseif p.optional then text = "[" .. text .. "]" end
    parts[i] = text
  end
  return ("nn.%s(%s)"):format(record.name, table.concat(parts, ", "))
end

local function param_words(p)
  local words = p.words and '"' .. table.concat(p.words, '", "') .. '"' or type_words[p.type] or p.type
  if p.scalar then words = words .. ", or a number" end
  if p.variadic then words = words .. "; several arguments, or a list"
  elseif p.list and p.tensor then words = "list of " .. words:gsub("^tensor", "tensors")
  elseif p.list then words = words .. "; one, or a list"
  elseif p.count then words = words .. ("; one, or a list of %d"):format(p.count) end
  if p.alternatives then words = words .. ', or "' .. table.concat(p.alternatives, '", "') .. '"' end
  if p.default ~= nil then words = words .. "; default " .. default_text(p)
  elseif p.optional then words = words .. "; optional" end
  return words
end

local function is_method(record)
  local first = record.params[1]
  return first and first.tensor and not first.list and not record.traits.no_method
end

local function op_page(record)
  local rows, width = {}, 2
  for _, p in ipairs(record.params) do rows[#rows + 1] = {p.name, param_words(p)} end
  local results = {}
  for _, r in ipairs(record.results) do
    if not r.hidden then results[#results + 1] = r.name .. (r.list and " ..." or "") end
  end
  if #results > 0 then rows[#rows + 1] = {"->", table.concat(results, ", ")} end
  for _, row in ipairs(rows) do width = math.max(width, #row[1]) end
  for i, row in ipairs(rows) do rows[i] = ("  %-" .. width .. "s  %s"):format(row[1], row[2]) end
  local notes = {}
  if is_method(record) then notes[#notes + 1] = ("Method: x:%s."):format(record.name) end
  if record.traits.inplace then notes[#notes + 1] = ("In place: x:%s_."):format(record.name) end
  if record.traits.view then notes[#notes + 1] = "The result may share memory with its input." end
  if record.no_grad then notes[#notes + 1] = ("No gradient: %s."):format(record.no_grad) end
  local paragraphs = {table.concat(rows, "\n")}
  if #notes > 0 then paragraphs[2] = filled(table.concat(notes, "  "), "") end
  return page(call_text(record), record.doc or "", paragraphs, record.example)
end

local function public_ops()
  local list, by_name = {}, {}
  for _, record in ipairs(native.ops()) do
    if not record.traits.hidden then
      list[#list + 1] = record
      by_name[record.name] = record
    end
  end
  return list, by_name
end

---------------------------------------------------------------- the rest

-- A dotted name ("optim.Adam", "Linear", "data.Loader") in the library; classes of nn.optim and the like are found
-- without the library's name, too.
local function find_value(name)
  local nn = require "nnlua"
  local function find(place, path)
    for part in path:gmatch "[^.]+" do
      if type(place) ~= "table" then return nil end
      place = rawget(place, part)
    end
    return place
  end
  local value = find(nn, name)
  if value ~= nil then return value end
  for _, library in ipairs {"optim", "init", "utils", "data"} do
    value = find(nn[library], name)
    if value ~= nil then return value end
  end
end

-- Methods of a class of the library's own, and the class whose methods it has besides: from the sources.
local function class_methods(class)
  local found = {}
  local classes, methods = require "nnlua.sources".read()
  for _, method in ipairs(methods) do
    if method.class == class and method.dot == ":" then found[#found + 1] = ("%s(%s)"):format(method.name,
      method.args) end
  end
  return found, classes[class] and (classes[class].parent or ""):match "nnlua%.(.+)"
end

local function value_page(value)
  local entry = docs.entries[value]
  if not entry then return nil end
  local call, paragraphs = ("nn.%s(%s)"):format(entry.name, docs.readable(entry.signature)), {}
  local class = entry.name:match "[%w_]+$"
  if value == rawget(require "nnlua", "Module") then call = 'nn.Module:subclass "Name"' end
  local names, parent = class_methods(class)
  if type(value) == "table" and rawget(value, "is_module") and class ~= "Module" then parent = "Module" end
  if #names > 0 then
    paragraphs[1] = ("Methods (nnlua help %s.NAME)\n\n%s"):format(class, filled(table.concat(names, " "), "  "))
  end
  if parent then paragraphs[#paragraphs + 1] = ("Methods as of any %s: nnlua help %s."):format(parent, parent) end
  return page(call, entry.doc, paragraphs, entry.example)
end

local function method_page(name)
  local class, method_name = name:match "^([%w_]+)[.:]([%w_]+)$"
  local classes, methods = require "nnlua.sources".read()
  if classes[name] then
    local names = class_methods(name)
    return page(name, require "nnlua.sources".words(classes[name].lines),
      {("Methods (nnlua help %s.NAME)\n\n%s"):format(name, filled(table.concat(names, " "), "  "))})
  end
  for _, method in ipairs(methods) do
    if method.name == (method_name or name) and (not class or method.class == class) then
      local owner = method.class == "Module" and "net" or method.class:lower():gsub("^.*(dataset)$", "%1")
      return page(("%s%s%s(%s)"):format(owner, method.dot, method.name, method.args),
        require "nnlua.sources".words(method.lines), {"A method of " .. method.class .. "."})
    end
  end
end

local function manual_page(name)
  local found
  manual.each(function(entry)
    if entry.name == name and not found then found = page(entry.call, entry.doc, nil, entry.example) end
  end)
  return found
end

---------------------------------------------------------------- what there is

local families = {
  {"Making tensors", "create"}, {"Random", "random", "dropout", "multinomial"},
  {"Shapes", "view", "slice", "join", "repeat", "triangle", "copy", "pad"},
  {"Choosing, gathering", "index", "index_select", "gather", "mask", "embedding"},
  {"Arithmetic", "arithmetic"}, {"Mathematics", "maths"},
  {"Comparison, logic", "compare"}, {"Reductions", "reduce", "scan"}, {"Order, counts", "sort", "count"},
  {"Products", "matmul", "linear", "einsum"}, {"Convolutions", "conv"},
  {"Activations", "activation", "softmax"}, {"Losses", "loss", "cross_entropy"},
  {"Pooling", "pool_max", "pool_mean"}, {"Normalisation", "batch_norm"},
}

local function names_of(values)
  local names = {}
  for name, value in pairs(values) do
    if type(name) == "string" and not name:find "^_" and docs.entries[value] then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

local function section(out, title, names)
  if #names > 0 then out[#out + 1] = title .. "\n" .. filled(table.concat(names, " "), "  ") end
end

local function op_sections(out)
  local place, titles, sets = {}, {}, {}
  for i, family in ipairs(families) do
    titles[i], sets[i] = family[1], {}
    for j = 2, #family do place[family[j]] = i end
  end
  local modules = {} -- some activations are mathematics, too
  for name in pairs(require "nnlua.activations") do modules[name:lower()] = true end
  for _, record in ipairs((public_ops())) do
    local i = place[modules[record.name:gsub("_", "")] and "activation" or record.family]
    if not i then -- a family of its own
      i = #titles + 1
      place[record.family], titles[i], sets[i] = i, record.family:gsub("^%l", string.upper):gsub("_", " "), {}
    end
    table.insert(sets[i], record.name .. (record.traits.in_place and "_" or ""))
  end
  for i, title in ipairs(titles) do section(out, title, sets[i]) end
end

local function overview()
  local nn, out = require "nnlua", {}
  out[1] = filled("nnlua help NAME explains an op, a module, a loss, an optimizer, a function, a method: nnlua "
    .. "help softmax, "
    .. "nnlua help Linear, nnlua help optim.Adam, nnlua help state_dict.  Ops are called as nn.NAME, and those "
      .. "that begin "
    .. "with a tensor as x:NAME, too.", "")
  op_sections(out)
  local by_kind = {functions = {}, methods = {}, fields = {}, topics = {}}
  manual.each(function(entry, kind) table.insert(by_kind[kind], entry.name) end)
  section(out, "Tensors: methods and fields besides the ops", by_kind.methods)
  out[#out] = out[#out] .. "\n" .. filled(table.concat(by_kind.fields, " "), "  ")
  section(out, "Tensors: topics", by_kind.topics)
  for _, part in ipairs {{"Modules: layers", "layers"}, {"Modules: convolutions", "convolution"},
    {"Modules: pooling", "pooling"}, {"Modules: normalisation", "batch_norm"},
    {"Modules: recurrent layers", "recurrent"}, {"Modules: transformers", "transformer"},
    {"Modules: activations", "activations"}, {"Modules: losses", "losses"}} do
    section(out, part[1], names_of(require("nnlua." .. part[2])))
  end
  for _, library in ipairs {"optim", "init", "utils", "data"} do section(out, "nn." .. library,
    names_of(nn[library])) end
  local functions = {}
  for name, value in pairs(nn) do
    if type(value) == "function" and docs.entries[value] then functions[#functions + 1] = name end
  end
  for _, name in ipairs(by_kind.functions) do
    if not name:find "%." then functions[#functions + 1] = name end
  end
  functions[#functions + 1] = "Module"
  table.sort(functions)
  section(out, "Functions and the rest", functions)
  return table.concat(out, "\n\n") .. "\n"
end

local function library_page(name)
  local nn = require "nnlua"
  local library = rawget(nn, name)
  local texts = {
    optim = "Optimizers and schedules of the learning rate.",
      init = "Initial values: each fills its tensor in place.",
    utils = "Gradients and parameters as a whole.", data = "Datasets, the loader, readers of files.",
    functional = "All ops as functions, under torch's name for them.",
  }
  texts.F = texts.functional
  if type(library) ~= "table" or not texts[name] then return nil end
  local names = names_of(library)
  if #names == 0 then names = native.op_names() end
  return page("nn." .. name, texts[name], {filled(table.concat(names, " "), "  ")})
end

--- All names that help knows, for suggestions and completion.
---@return string[]
function help.names()
  local names, nn = native.op_names(), require "nnlua"
  manual.each(function(entry) names[#names + 1] = entry.name end)
  for name, value in pairs(nn) do
    if docs.entries[value] then names[#names + 1] = name end
  end
  for _, library in ipairs {"optim", "init", "utils", "data"} do
    names[#names + 1] = library
    for _, name in ipairs(names_of(nn[library])) do names[#names + 1] = library .. "." .. name end
  end
  local _, methods = require "nnlua.sources".read()
  for _, method in ipairs(methods) do names[#names + 1] = method.class .. "." .. method.name end
  table.sort(names)
  return names
end

-- The known name that is most like it, also without its library's or class's name.
local function nearest(name)
  local candidates, whole = native.op_names(), {}
  for _, known in ipairs(help.names()) do
    local last = known:match "[%w_]+$"
    candidates[#candidates + 1] = last
    whole[last] = whole[last] or known
    if last ~= known then candidates[#candidates + 1] = known end
  end
  local near = native.nearest(name, candidates)
  return near and (whole[near] or near)
end

--- The text for a name; nil, and the reason, when there is none.
---@param name string
---@return string?
---@return string?
function help.page(name)
  local bare = name:gsub("%(.*$", ""):gsub("^nn[.:]", ""):gsub("^F%.", ""):gsub("^functional%.", ""):gsub("^x[.:]",
    "")
    :gsub("^[Tt]ensor[.:]", "")
  local _, ops = public_ops()
  local record = ops[bare] or ops[(bare:gsub("_$", ""))]
  if record then return op_page(record) end
  local value = find_value(bare)
  local text = value ~= nil and value_page(value) or manual_page(bare) or library_page(bare) or method_page(bare)
  if text then return text end
  local near = nearest(bare)
  return nil, ("there is no help for '%s'%s"):format(name, near and (" (did you mean '%s'?)"):format(near) or "")
end

--- For the command: the text, or nil after saying why there is none.
---@param name string?
---@return string?
function help.show(name)
  if not name then return overview() end
  local text, why = help.page(name)
  if not text then io.stderr:write("nnlua: ", why, "; nnlua help lists what there is\n") end
  return text
end

-- What a value is called.
local function name_of(value)
  if native.is_tensor(value) then return "tensor" end
  local nn = require "nnlua"
  for name, known in pairs(nn) do
    if known == value then return name end
  end
  for name, known in pairs(native.methods) do
    if known == value then return name end
  end
  local meta = type(value) == "table" and getmetatable(value)
  local entry = docs.entries[value] or docs.entries[meta]
  return entry and entry.name
end

--- Prints the text for a name or a value.
---@param what any
function help.say(what)
  local text, why
  if what == nil then
    text = overview()
  else
    local name = type(what) == "string" and what or name_of(what)
    if not name and type(what) == "table" and getmetatable(what)
      and getmetatable(what).is_module then name = "Module" end
    if name then text, why = help.page(name) end
  end
  io.write(text or "nnlua: " .. (why or "there is no help for this value") .. "\n")
end

---@return string
function help.info()
  local i = native.info()
  local limit = native.memory().limit
  local lines = {
    "nnlua " .. i.version .. ", " .. _VERSION,
    ("instruction set  %s (this machine: %s)"):format(i.isa, table.concat(i.isas, ", ")),
    ("threads          %d of %d processors"):format(i.threads, i.processors),
    "memory limit     " .. (limit > 0 and ("%d bytes"):format(limit) or "none"),
    "BLAS             own kernels",
    "zlib             " .. (i.zlib and "yes" or "no: .gz files cannot be read"),
    ("ops              %d"):format(#native.op_names()),
  }
  return table.concat(lines, "\n") .. "\n"
end

---------------------------------------------------------------- completion

local keywords = {"and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in",
  "local",
  "nil", "not", "or", "repeat", "return", "then", "true", "until", "while"}

local function each_field(value, offer)
  for _ = 1, 12 do
    if type(value) ~= "table" then return end
    for name in next, value do offer(name) end
    local meta = getmetatable(value)
    value = type(meta) == "table" and rawget(meta, "__index")
  end
end

-- What may follow the value and "." or ":".
local function offer_members(value, colon, offer)
  if native.is_tensor(value) then
    for name in pairs(native.methods) do offer(name) end
    if colon == "." then
      for _, field in ipairs(manual.fields) do offer(field[1]) end
    end
  elseif type(value) == "string" then
    each_field(string, offer)
  elseif type(value) == "table" then
    each_field(value, offer)
  end
end

--- Candidates for the word that ends `line`: ops and modules behind "nn.", methods behind a colon, fields of tables,
--- globals and keywords, names within help "...".
---@param line string
---@param word string
---@return string[]
function help.complete(line, word)
  local found, seen = {}, {}
  local prefix, colon, start = word:match "^(.-)([.:])([%a_]?[%w_]*)$"
  if not prefix then prefix, colon, start = "", "", word end
  local function offer(name)
    if type(name) == "string" and name:sub(1, #start) == start and (start ~= "" or not name:find "^_")
      and not seen[name]
      and name:find "^[%a_][%w_]*$" and not name:find "^__" then
      seen[name] = true
      found[#found + 1] = prefix .. colon .. name
    end
  end
  if line:find "help%s*%(?%s*[\"'][%w_.]*$" then
    for _, name in ipairs(help.names()) do
      if name:sub(1, #word) == word then found[#found + 1] = name end
    end
  elseif prefix == "" and colon == "" then
    each_field(_G, offer)
    for _, name in ipairs(keywords) do offer(name) end
  elseif prefix == "" then -- behind an expression, as in f(x):re
    local after = line:sub(1, #line - #word):match "(.)$"
    if after and after:find "[%])}]" then
      for name in pairs(native.methods) do offer(name) end
    elseif after and after:find "[\"']" then
      each_field(string, offer)
    end
  elseif not prefix:find "[^%w_.]" then
    local value = _G
    for part in prefix:gmatch "[^.]+" do
      local at = value
      local ok, inner = pcall(function() return at[part] end)
      value = nil
      if not ok or inner == nil then break end
      value = inner
    end
    offer_members(value, colon, offer)
  end
  table.sort(found)
  return found
end

return help
