-- What the specs share: comparing tensors, catching errors, running the command.
local nn = require "nnlua"

local helpers = {nn = nn}

helpers.build = os.getenv "NNLUA_BUILD" or "build"
helpers.eps = {f32 = 2.0 ^ -23, f64 = 2.0 ^ -52}
-- Below this a type has no full precision any more.
helpers.tiny = {f32 = 2.0 ^ -126, f64 = 2.0 ^ -1022}

-- This file's folder, with the slash.
helpers.folder = debug.getinfo(1, "S").source:match "^@(.*/)" or "./"

---------------------------------------------------------------- values

--- The function of an op, from nn or nn.F; nil when there is none.
function helpers.op(name)
  local ok, f = pcall(function() return nn[name] end)
  if ok and f ~= nil then return f end
  ok, f = pcall(function() return nn.F[name] end)
  if ok then return f end
end

--- All elements in order, as a flat list.
function helpers.flat(x)
  local elements = {}
  local function walk(v)
    if type(v) == "table" then
      for i = 1, #v do walk(v[i]) end
    else
      elements[#elements + 1] = v
    end
  end
  if x:numel() > 0 then walk(x:totable()) end
  return elements
end

function helpers.shape_text(shape)
  local sizes = {}
  for i = 1, #shape do sizes[i] = tostring(math.tointeger(shape[i])) end
  return #sizes == 0 and "0-d" or table.concat(sizes, "x")
end

--- A tensor with these elements, in order.
function helpers.tensor(elements, shape, dtype)
  local sizes, n = {}, 1
  for i = 1, #shape do
    sizes[i] = shape[i]
    n = n * shape[i]
  end
  if n == 0 then return nn.zeros(sizes, {dtype = dtype}) end
  return nn.tensor(elements, {dtype = dtype}):reshape(sizes)
end

--- The fixed weights r of sum(out * r): odd eighths, the formula of golden/generate.py.
function helpers.weights(out, k)
  local r = {}
  for i = 0, out:numel() - 1 do r[i + 1] = (2 * ((i * 7 + 3 * k) % 11) - 9) / 8 end
  return helpers.tensor(r, out.shape, out.dtype)
end

function helpers.is_float(x) return x.dtype == "f32" or x.dtype == "f64" end

--- The same values in another layout: "t" as a transposed, "s" as a stepped slice of a larger tensor, "c" with the
--- channels (dimension 2) of batch x channels x ... together, as results of convolutions lie.
--- The result is a leaf.
function helpers.layout(x, kind)
  local dims = x:dim()
  if dims == 0 or not kind then return x end
  local out
  if kind == "t" then
    local back = {}
    for i = 1, dims do back[i] = dims + 1 - i end
    out = x:permute(back):clone():contiguous():permute(back)
  elseif kind == "c" then
    if dims < 3 then return x end
    out = x:movedim(2, -1):clone():contiguous():movedim(-1, 2)
  elseif kind == "s" then
    -- between any two neighbours of every dimension stands another element
    local values, elements, shape, filler = helpers.flat(x), {}, {}, x.dtype == "bool" and true or 77
    local function lay(d, first, count) -- elements first .. first + count - 1 of x, from dimension d on
      if d > dims then
        elements[#elements + 1] = values[first]
        return
      end
      for i = 0, x:size(d) - 1 do
        local before = #elements
        lay(d + 1, first + i * (count // x:size(d)), count // x:size(d))
        for _ = 1, #elements - before do elements[#elements + 1] = filler end
      end
    end
    lay(1, 1, x:numel())
    for d = 1, dims do
      shape[2 * d - 1] = x:size(d)
      shape[2 * d] = 2
    end
    if dims > 4 then return helpers.layout(x, "t") end -- 8 dimensions at most
    out = helpers.tensor(elements, shape, x.dtype)
    for d = dims, 1, -1 do out = out:select(2 * d, 1) end
  else
    error("layout " .. tostring(kind))
  end
  return out:detach()
end

--- Gives a network statistics and parameters that are not those of a new one, and sets it to evaluation.
function helpers.unsettle(net)
  for _, buffer in ipairs(net:buffers()) do
    if buffer.dtype ~= "i64" then buffer:copy_(nn.rand(buffer.shape):add_(0.5)) end
  end
  nn.no_grad(function() for _, p in ipairs(net:parameters()) do p:copy_(nn.randn(p.shape)) end end)
  return net:eval()
end

--- How often the text of a captured function's program has a word.
function helpers.count_of(f, word)
  local _, count = f:explain():gsub(word, "")
  return count
end

---------------------------------------------------------------- comparing

local function bits(v)
  if type(v) == "number" and math.type(v) == "float" then
    return v ~= v and "nan" or string.pack("d", v)
  end
  return tostring(v)
end

--- Same type, shape and bits (one NaN is as good as another); else nil and what differs.
function helpers.same(a, b)
  if a.dtype ~= b.dtype then return nil, "type " .. a.dtype .. ", wanted " .. b.dtype end
  local sa, sb = helpers.shape_text(a.shape), helpers.shape_text(b.shape)
  if sa ~= sb then return nil, "shape " .. sa .. ", wanted " .. sb end
  local fa, fb = helpers.flat(a), helpers.flat(b)
  for i = 1, #fb do
    if bits(fa[i]) ~= bits(fb[i]) then
      return nil, ("element %d is %s, wanted %s"):format(i, tostring(fa[i]), tostring(fb[i]))
    end
  end
  return true
end

--- Whether type, shape and values are the same (one NaN is as good as another, and one zero): by tensor ops, twenty
--- times as fast as helpers.same.
function helpers.equal(a, b)
  return a.dtype == b.dtype and a.shape == b.shape and (a:eq(b) | (a:ne(a) & b:ne(b))):all():item()
end

--- Whether x is as close to the values of `wanted` (a tensor of any float type) as x's precision allows:
---   |x - wanted| <= c eps (scale or |wanted| + floor)
--- scale: the condition of the whole tensor, max |wanted| + max sum |a||b|; without it each element is
--- measured by itself.  Integers and booleans are compared exactly.  Returns true, or nil and what differs;
--- and the largest error met, in units of eps times the measure.
function helpers.close(x, wanted, options)
  options = options or {}
  local sx, sw = helpers.shape_text(x.shape), helpers.shape_text(wanted.shape)
  if sx ~= sw then return nil, "shape " .. sx .. ", wanted " .. sw end
  if not helpers.is_float(wanted) or not helpers.is_float(x) then return helpers.same(x, wanted) end
  local eps, tiny, c = helpers.eps[x.dtype], helpers.tiny[x.dtype], options.c or 8
  local fx, fw = helpers.flat(x), helpers.flat(wanted)
  local worst = 0
  for i = 1, #fw do
    local a, b = fx[i], fw[i]
    local good
    if b ~= b then
      good = a ~= a
    elseif b == math.huge or b == -math.huge then
      good = a == b
    elseif options.scale then
      local measure = math.max(options.scale, math.abs(b), tiny)
      worst = math.max(worst, math.abs(a - b) / (eps * measure))
      good = math.abs(a - b) <= c * eps * measure
    else
      local measure = math.max(math.abs(b) + (options.floor or 0), tiny)
      worst = math.max(worst, math.abs(a - b) / (eps * measure))
      good = math.abs(a - b) <= c * eps * measure
    end
    if not good then
      return nil, ("element %d is %.17g, wanted %.17g (off by %.3g of eps, %g allowed)"):format(i, a, b,
        math.abs(a - b) / (eps * math.max(options.scale or 0, math.abs(b) + (options.floor or 0), tiny)), c)
    end
  end
  return true, worst
end

--- helpers.close as an assertion; `what` stands before the message.
function helpers.assert_close(what, x, wanted, options)
  local ok, why = helpers.close(x, wanted, options)
  if not ok then error(what .. ": " .. why, 2) end
end

function helpers.assert_same(what, x, wanted)
  local ok, why = helpers.same(x, wanted)
  if not ok then error(what .. ": " .. why, 2) end
end

---------------------------------------------------------------- errors

--- The message of the error that f(...) raises, without its position; nil when it raises none.
--- The second result says whether the message is a string.
function helpers.error_of(f, ...)
  local arguments = table.pack(...)
  local ok, message = pcall(function()
    local result = f(table.unpack(arguments, 1, arguments.n)) -- no tail call: the position is this line's
    return result
  end)
  if ok then return nil end
  if type(message) ~= "string" then return tostring(message), false end
  return (message:gsub("^[^\n:]+:%d+: ", "", 1)), true
end

--- The same with its position; there must be one.
function helpers.message(f, ...)
  local ok, text = pcall(f, ...)
  assert(not ok, "no error")
  return text
end

--- Asserts that f() raises an error whose message has all these parts; returns the message.
function helpers.says(f, ...)
  local message = helpers.error_of(f)
  assert(message, "no error")
  for _, part in ipairs {...} do
    assert(message:find(part, 1, true), ("%q is not in: %s"):format(part, message))
  end
  return message
end

--- The same, and neither the values nor the version of x are others after it.
function helpers.leaves(x, f, ...)
  local before, version = x:detach():clone(), x:version()
  local message = helpers.says(f, ...)
  helpers.assert_same("after the error", x:detach(), before)
  assert(x:version() == version, "counted as changed")
  return message
end

--- A new leaf with these elements that requires grad.
function helpers.leaf(list, dtype) return helpers.nn.tensor(list, {dtype = dtype, requires_grad = true}) end

--- The elements of x are exactly these.
function helpers.holds(wanted, x) require "luassert".same(wanted, x:totable()) end

---------------------------------------------------------------- the command

local function quoted(word) return "'" .. tostring(word):gsub("'", "'\\''") .. "'" end

function helpers.slurp(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

--- Runs a program; returns its exit status, standard output and standard error.
function helpers.spawn(words, options)
  options = options or {}
  local line = {}
  for i, word in ipairs(words) do line[i] = quoted(word) end
  local out, err = os.tmpname(), os.tmpname()
  local command = table.concat(line, " ") .. " >" .. quoted(out) .. " 2>" .. quoted(err)
    .. " <" .. quoted(options.input or "/dev/null")
  local _, how, status = os.execute(command)
  local text, complaint = helpers.slurp(out), helpers.slurp(err)
  os.remove(out)
  os.remove(err)
  if how == "signal" then status = 128 + status end
  return status, text, complaint
end

--- Runs the command of the build: helpers.nnlua{"-e", "print(1)"}.
function helpers.nnlua(words, options)
  local all = {helpers.build .. "/nnlua"}
  for i, word in ipairs(words) do all[i + 1] = word end
  return helpers.spawn(all, options)
end

return helpers
