-- Draws the inputs of an op from its record: the grammar of .sample is in README.md.
local helpers = require "spec.helpers"
local nn = helpers.nn

local samples = {}

---------------------------------------------------------------- numbers

-- xorshift64*: own random numbers, so that the inputs do not depend on what is tested.
local function source(seed)
  local state = 0x9E3779B97F4A7C15 ~ seed
  local function uniform()
    state = state ~ (state >> 12)
    state = state ~ (state << 25)
    state = state ~ (state >> 27)
    return ((state * 0x2545F4914F6CDD1D) >> 40) / 0x1000000
  end
  for _ = 1, 4 do uniform() end
  return uniform
end

local function seed_of(text)
  local h = 0xCBF29CE484222325
  for i = 1, #text do h = (h ~ text:byte(i)) * 0x100000001B3 end
  return h
end

-- A number that f32 holds exactly.
local function single(v) return (string.unpack("f", string.pack("f", v))) end

--- A tensor as a spec {shape, lo, hi, ints, dtype, avoid, apart} says.
function samples.draw(spec, dtype, seed)
  local uniform = source(seed)
  local n = 1
  for _, size in ipairs(spec.shape) do n = n * size end
  local kind = spec.dtype or spec.ints and "i64" or dtype
  local elements = {}
  if spec.apart then
    for i = 1, n do elements[i] = single(spec.lo + (spec.hi - spec.lo) * (i - 0.5) / n) end
    for i = n, 2, -1 do
      local j = 1 + math.floor(uniform() * i)
      elements[i], elements[j] = elements[j], elements[i]
    end
    if kind ~= "f32" and kind ~= "f64" then
      for i = 1, n do elements[i] = math.floor(elements[i]) end
    end
  else
    for i = 1, n do
      local u = uniform()
      if kind == "bool" then
        elements[i] = u < 0.5
      elseif spec.ints then
        elements[i] = 1 + math.floor(u * spec.ints)
      elseif kind == "f32" or kind == "f64" then
        local v = spec.lo + (spec.hi - spec.lo) * u
        for _, kink in ipairs(spec.avoid) do
          if math.abs(v - kink) < 0.1 then v = kink + (v < kink and -0.1 or 0.1) + (v - kink) end
        end
        elements[i] = single(v)
      else
        local lo = kind == "u8" and math.max(spec.lo, 0) or spec.lo
        elements[i] = math.floor(lo + (spec.hi - lo + 1) * u)
        if spec.hi < elements[i] then elements[i] = math.floor(spec.hi) end
      end
    end
    if spec.ints and (kind == "f32" or kind == "f64") then
      for i = 1, n do elements[i] = elements[i] + 0.0 end
    end
  end
  return helpers.tensor(elements, spec.shape, kind)
end

---------------------------------------------------------------- reading .sample

-- Splits at a separator that stands in no quotes, braces, brackets.
local function split(text, separator)
  local parts, depth, from, quote = {}, 0, 1, nil
  for i = 1, #text do
    local c = text:sub(i, i)
    if quote then
      if c == quote then quote = nil end
    elseif c == '"' or c == "'" then
      quote = c
    elseif c:find "[%[{(<]" then
      depth = depth + 1
    elseif c:find "[%]})>]" then
      depth = depth - 1
    elseif depth == 0 and c:find(separator) then
      parts[#parts + 1] = text:sub(from, i - 1)
      from = i + 1
    end
  end
  parts[#parts + 1] = text:sub(from)
  local full = {}
  for _, part in ipairs(parts) do
    part = part:match "^%s*(.-)%s*$"
    if part ~= "" then full[#full + 1] = part end
  end
  return full
end

local function default_spec(param, shape)
  local spec = {shape = shape or {3, 4}, lo = -2, hi = 2, avoid = {}}
  if param.type == "bool" then spec.dtype = "bool" end
  if param.type == "index" then spec.ints = 3 end
  if param.type == "integral" then spec.dtype, spec.lo, spec.hi = "i64", 0, 9 end
  return spec
end

local function read_tensor(param, text)
  local spec = default_spec(param)
  local shape, rest = text:match "^(0d)(.*)$"
  if shape then
    spec.shape = {}
  else
    shape, rest = text:match "^([%dx]+)(.*)$"
    assert(shape, "sample: no shape in " .. text)
    spec.shape = {}
    for size in shape:gmatch "%d+" do spec.shape[#spec.shape + 1] = math.tointeger(tonumber(size)) end
  end
  while rest ~= "" do
    local a, b, after = rest:match "^%[([^,%]]+),([^%]]+)%](.*)$"
    if a then
      spec.lo, spec.hi = tonumber(a), tonumber(b)
      assert(spec.lo and spec.hi, "sample: a range in " .. text)
      goto continue
    end
    a, after = rest:match "^<(%d+)>(.*)$"
    if a then
      spec.ints = math.tointeger(tonumber(a))
      goto continue
    end
    a, after = rest:match "^{(%w+)}(.*)$"
    if a then
      spec.dtype = a
      goto continue
    end
    a, after = rest:match "^!(%-?[%d.]+)(.*)$"
    if a then
      spec.avoid[#spec.avoid + 1] = tonumber(a)
      goto continue
    end
    after = rest:match "^%^(.*)$"
    if after then
      spec.apart = true
      goto continue
    end
    after = rest:match "^~(.*)$"
    if after then
      spec.constant = true
      goto continue
    end
    error("sample: " .. rest .. " in " .. text)
    ::continue::
    rest = after
  end
  return spec
end

local function param_of(record, name)
  for _, param in ipairs(record.params) do
    if param.name == name then return param end
  end
  error(("%s: sample names %s, which is no parameter"):format(record.name, name))
end

local function read_case(record, text)
  local case = {text = text, value = {}}
  for _, item in ipairs(split(text, "%s")) do
    local name, eq, value = item:match "^([%w_]+)([:=])(.*)$"
    assert(name, record.name .. ": sample: " .. item)
    local param = param_of(record, name)
    if eq == "=" then
      case.value[name] = assert(load("return " .. value))()
    elseif value ~= "-" then
      local list = {}
      for _, one in ipairs(split(value, "%+")) do list[#list + 1] = read_tensor(param, one) end
      case.value[name] = param.list and {list = list} or {spec = list[1]}
    end
  end
  return case
end

--- The cases of a record: what .sample says, else every tensor 3x4.  Each {text, value = {name = ...}}, where a
--- tensor is {spec = ...} or {list = {specs}}.
function samples.cases(record)
  local cases = {}
  if record.sample then
    for _, text in ipairs(split(record.sample, ";")) do cases[#cases + 1] = read_case(record, text) end
    return cases
  end
  local function default(with_optional)
    local case = {text = with_optional and "3x4, optional ones given" or "3x4", value = {}, guess = with_optional}
    for _, param in ipairs(record.params) do
      if param.tensor and (with_optional or not param.optional) then
        local spec = default_spec(param)
        case.value[param.name] = param.list and {list = {spec, default_spec(param)}} or {spec = spec}
      elseif not param.tensor and not param.optional then
        case.missing = param.name
      end
    end
    return case
  end
  cases[1] = default(false)
  for _, param in ipairs(record.params) do
    if param.tensor and param.optional then
      cases[2] = default(true)
      break
    end
  end
  return cases
end

---------------------------------------------------------------- calls

--- The arguments of a case, in the order of the signature.
--- options: dtype of floats; grad = true asks for gradients; shape(spec, param) and map(x, param) change what is drawn.
--- Returns a list with n and tensors = {{x, param, spec}}.
function samples.arguments(record, case, options)
  options = options or {}
  if case.missing then error(("%s: needs a .sample that gives %s"):format(record.name, case.missing), 0) end
  local arguments = {n = 0, tensors = {}}
  local function draw(spec, param, place)
    if options.shape then
      local changed = {}
      for k, v in pairs(spec) do changed[k] = v end
      changed.shape = options.shape(spec, param)
      spec = changed
    end
    local x = samples.draw(spec, options.dtype or "f64", seed_of(record.name .. case.text .. param.name .. place))
    if options.map then x = options.map(x, param) end
    if options.grad and helpers.is_float(x) and not spec.constant then
      if x.requires_grad or options.map then x = x:detach() end
      x.requires_grad = true
    end
    arguments.tensors[#arguments.tensors + 1] = {x = x, param = param, spec = spec}
    return x
  end
  for i, param in ipairs(record.params) do
    local value = case.value[param.name]
    if type(value) == "table" and value.spec then
      value = draw(value.spec, param, 0)
    elseif type(value) == "table" and value.list and type(value.list) == "table" then
      local list = {}
      for j, spec in ipairs(value.list) do list[j] = draw(spec, param, j) end
      value = list
    end
    if value ~= nil then
      arguments[i] = value
      arguments.n = i
    end
  end
  return arguments
end

--- The Lua function of a record, nil when it is hidden; what works in place only ends in "_".
function samples.op(record)
  if record.traits.hidden then return nil end
  return record.traits.in_place and helpers.op(record.name .. "_") or helpers.op(record.name)
end

--- Ops whose results have no particular values.
samples.undefined = {empty = true, empty_like = true}

--- Ops whose twin in place has another default than the function.
samples.own_twin = {bernoulli = true}

--- Calls f as the op of the record: seeds ops that draw random numbers, returns the tensors among the results.
function samples.call(record, f, arguments)
  if record.traits.random then nn.manual_seed(7) end
  local all = table.pack(f(table.unpack(arguments, 1, arguments.n)))
  local outs = {}
  for i = 1, all.n do
    if nn.is_tensor(all[i]) then outs[#outs + 1] = all[i] end
  end
  return outs, all
end

--- sum(out * r) over the results that gradients flow to; nil when there are none.
function samples.loss(outs)
  local total
  for k, out in ipairs(outs) do
    if helpers.is_float(out) and out.requires_grad then
      local part = (out * helpers.weights(out, k)):sum()
      total = total and total + part or part
    end
  end
  return total
end

--- The gradients of samples.loss with respect to the tensors among the arguments that ask for one.
function samples.gradients(outs, arguments)
  local loss = samples.loss(outs)
  local wanted = {}
  for _, tensor in ipairs(arguments.tensors) do
    if tensor.x.requires_grad then wanted[#wanted + 1] = tensor.x end
  end
  if not loss or #wanted == 0 then return {} end
  local grads = table.pack(nn.grad(loss, wanted, {allow_unused = true}))
  for i = 1, #wanted do
    if grads[i] == nil then grads[i] = nn.zeros(wanted[i].shape, {dtype = wanted[i].dtype}) end
  end
  return grads
end

--- Results and gradients of one case, as a list of tensors.
function samples.everything(record, f, case, dtype, options)
  local own = {dtype = dtype, grad = not record.traits.in_place}
  for k, v in pairs(options or {}) do own[k] = v end
  local arguments = samples.arguments(record, case, own)
  local outs = samples.call(record, f, arguments)
  local grads = samples.gradients(outs, arguments)
  for i = 1, #grads do outs[#outs + 1] = grads[i] end
  for i = 1, #outs do outs[i] = outs[i]:detach() end
  return outs
end

--- The condition of what samples.everything gives, a number for each: max |value| and how far the values move
--- when every float input moves by one part in 10^7, as parts of that.
function samples.scales(record, f, case, options)
  local values = samples.everything(record, f, case, "f64", options)
  local scales, flats = {}, {}
  for i, x in ipairs(values) do
    flats[i] = helpers.is_float(x) and helpers.flat(x) or {}
    local largest = 0
    for _, v in ipairs(flats[i]) do
      if v == v and math.abs(v) < math.huge then largest = math.max(largest, math.abs(v)) end
    end
    scales[i] = largest
  end
  local step = 1e-7
  local moved = {}
  for round = 1, 3 do
    local uniform = source(round)
    local own = {}
    for k, v in pairs(options or {}) do own[k] = v end
    function own.map(x, param)
      if helpers.is_float(x) and not record.traits.in_place then
        local factors = {}
        for i = 1, x:numel() do factors[i] = uniform() < 0.5 and 1 - step or 1 + step end
        x = x * helpers.tensor(factors, x.shape, x.dtype)
      end
      return options and options.map and options.map(x, param) or x
    end
    for i, x in ipairs(samples.everything(record, f, case, "f64", own)) do
      local flat = helpers.is_float(x) and x:numel() == #flats[i] and helpers.flat(x) or {}
      for j, v in ipairs(flat) do
        local d = math.abs(v - flats[i][j]) / step
        if d == d and d < math.huge then moved[i] = math.max(moved[i] or 0, d) end
      end
    end
  end
  for i = 1, #scales do scales[i] = scales[i] + (moved[i] or 0) end
  return scales, values
end

return samples
