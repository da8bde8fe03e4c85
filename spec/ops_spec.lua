-- Specs made from the registry: every op's record says how its inputs are drawn (README.md), and from that
-- follow its gradients, layouts, broadcasting, errors, threads and instruction sets.
local helpers = require "spec.helpers"
local samples = require "spec.samples"
local nn = helpers.nn

local native = require "nnlua.native" -- what the Lua library is built on
local records = nn.ops()

local function copy_of(t)
  local copy = {}
  for k, v in pairs(t) do copy[k] = v end
  return copy
end

-- Values, type, shape and version of every tensor among the arguments.
local function snapshot(arguments)
  local all = {}
  for i, tensor in ipairs(arguments.tensors) do
    all[i] = {copy = tensor.x:detach():clone(), version = tensor.x:version(), requires_grad = tensor.x.requires_grad}
  end
  return all
end

local function assert_unchanged(arguments, before)
  for i, tensor in ipairs(arguments.tensors) do
    helpers.assert_same("input " .. tensor.param.name .. " was changed", tensor.x, before[i].copy)
    assert(tensor.x.requires_grad == before[i].requires_grad, "requires_grad was changed")
    assert(tensor.x:version() == before[i].version, "the version was changed")
  end
end

-- A result may be written into a tensor of the same or a higher category.
local category = {bool = 0, u8 = 1, i32 = 1, i64 = 1, f32 = 2, f64 = 2}

-- "add: ..."; ops that work in place only are called "fill_: ..."
local function begins(message, name)
  return message:sub(1, #name + 2) == name .. ": " or message:sub(1, #name + 3) == name .. "_: "
end

-- f(arguments) must raise "NAME: ..." and leave the tensors as they are.
local function assert_refused(record, f, arguments, what)
  local before = snapshot(arguments)
  local message, text = helpers.error_of(f, table.unpack(arguments, 1, arguments.n))
  assert(message, what .. ": no error")
  assert(text, what .. ": the error is no string")
  assert(begins(message, record.name), what .. ": the message is " .. message)
  assert_unchanged(arguments, before)
  return message
end

-- The call may succeed or be refused properly; it may not crash or change anything.
local function assert_run_or_refused(record, f, arguments, what)
  local before = snapshot(arguments)
  local message, text = helpers.error_of(function(...)
    local outs = samples.call(record, f, table.pack(...))
    for _, out in ipairs(outs) do helpers.flat(out) end
  end, table.unpack(arguments, 1, arguments.n))
  if message then
    assert(text and begins(message, record.name), what .. ": the message is " .. message)
  end
  if message or not record.traits.in_place then assert_unchanged(arguments, before) end
  return message
end

-- The cases of a record that can be called; a guessed one (optional tensors of default shape) may not fit.
local function usable_cases(record, f)
  local cases = {}
  for _, case in ipairs(samples.cases(record)) do
    if not case.guess or pcall(function() samples.call(record, f, samples.arguments(record, case)) end) then
      cases[#cases + 1] = case
    end
  end
  return cases
end

local function tensor_specs(case)
  local specs = {}
  for _, value in pairs(case.value) do
    if type(value) == "table" and value.spec then specs[#specs + 1] = value.spec end
    if type(value) == "table" and type(value.list) == "table" then
      for _, spec in ipairs(value.list) do specs[#specs + 1] = spec end
    end
  end
  return specs
end

-- Whether all tensors of a case have one shape of at least one dimension; the shape.
local function common_shape(case)
  local specs = tensor_specs(case)
  local first
  for _, spec in ipairs(specs) do
    local shape = helpers.shape_text(spec.shape)
    if first and first ~= shape or #spec.shape == 0 then return nil end
    first = shape
  end
  return specs[1] and specs[1].shape, #specs
end

-- Families of ops (files of runtime/ops) that sum in another order where images lie channels last.
local another_order = {batch_norm = true}

-- Index, bool and integral parameters say which types they refuse.
local wrong_type = {index = "f32", bool = "f32", integral = "f32", float = "i64", number = "bool"}

for _, record in ipairs(records) do
  local name = record.name
  if not record.traits.hidden then
    describe("the op " .. name, function()
      local f = samples.op(record)
      local error_bound = record.error or 8

      it("is a function and says what it does", function()
        assert(f, "there is no function")
        assert(type(record.doc) == "string" and record.doc:find "%S", "no doc")
        assert(record.has_grad or record.has_define or record.no_grad or record.traits.in_place or record.traits.view,
          "neither a gradient nor a reason why there is none")
      end)
      if not f then return end

      if record.example then
        it("runs its example", function()
          local environment = setmetatable({nn = nn, print = function() end}, {__index = _G})
          nn.manual_seed(1)
          local chunk = load("return " .. record.example, "=example", "t", environment)
            or assert(load(record.example, "=example", "t", environment))
          chunk()
        end)
      end

      local listed, cases = pcall(usable_cases, record, f)
      if not listed then
        it("has a sample that can be read", function() error(cases, 0) end)
        return
      end

      for number, case in ipairs(cases) do
        local with = " (" .. case.text .. ")"
        -- an op that draws and has a composition draws the same as that, from the same seed
        local deterministic = (not record.traits.random or record.has_define) and not samples.undefined[name]
        local pure = not record.traits.in_place

        it("gives the same in f32 as in f64" .. with, function()
          if not deterministic or not pure then
            samples.everything(record, f, case, "f32")
            samples.everything(record, f, case, "f64")
            return
          end
          local scales, wide = samples.scales(record, f, case)
          local narrow = samples.everything(record, f, case, "f32")
          assert(#narrow == #wide, "as many results")
          for i, x in ipairs(narrow) do
            if helpers.is_float(x) then
              helpers.assert_close("result " .. i, x, wide[i], {c = error_bound, scale = scales[i]})
            else
              helpers.assert_same("result " .. i, x, wide[i])
            end
          end
        end)

        if (record.has_grad or record.has_define) and pure and not record.no_grad then
          it("has right first and second derivatives" .. with, function()
            local arguments = samples.arguments(record, case, {grad = true})
            local first = samples.call(record, f, arguments)
            if not samples.loss(first) then return end
            local inputs, places = {}, {}
            for i = 1, arguments.n do
              local a = arguments[i]
              if nn.is_tensor(a) and a.requires_grad then
                inputs[#inputs + 1] = a
                places[#places + 1] = {i}
              elseif type(a) == "table" then
                for j, x in ipairs(a) do
                  if nn.is_tensor(x) and x.requires_grad then
                    inputs[#inputs + 1] = x
                    places[#places + 1] = {i, j}
                  end
                end
              end
            end
            local function call(...)
              local own = copy_of(arguments)
              for k, place in ipairs(places) do
                if place[2] then
                  if rawequal(own[place[1]], arguments[place[1]]) then own[place[1]] = copy_of(own[place[1]]) end
                  own[place[1]][place[2]] = (select(k, ...))
                else
                  own[place[1]] = (select(k, ...))
                end
              end
              local flow = {}
              for k, out in ipairs((samples.call(record, f, own))) do
                if helpers.is_float(out) and first[k].requires_grad then flow[#flow + 1] = out end
              end
              return table.unpack(flow)
            end
            assert(nn.gradcheck(call, inputs, {order = 2}))
          end)
        elseif record.no_grad and pure then
          it("has no gradient, as it says" .. with, function()
            local arguments = samples.arguments(record, case, {grad = true})
            for i, out in ipairs(samples.call(record, f, arguments)) do
              assert(not out.requires_grad, "result " .. i .. " requires a gradient")
            end
          end)
        end

        if record.has_define and deterministic then
          it("is what its composition of simpler ops is" .. with, function()
            local function define(...) return native.run_define(name, ...) end
            local scales, wanted = samples.scales(record, define, case)
            local got = samples.everything(record, f, case, "f64")
            assert(#got >= #wanted, ("%d results and gradients, wanted %d"):format(#got, #wanted))
            for i, x in ipairs(wanted) do
              helpers.assert_close("result " .. i, got[i], x, {c = 4 * error_bound, scale = scales[i]})
            end
          end)
        end

        it("is captured with the same bits" .. with, function()
          if samples.undefined[name] then return end
          local function all()
            if not record.traits.random then
              -- and once more in between, where equal steps are merged and constants computed at capture
              local list = samples.everything(record, f, case, "f32")
              for _, x in ipairs(samples.everything(record, f, case, "f32")) do list[#list + 1] = x:clone() end
              return list
            end
            local arguments = samples.arguments(record, case, {dtype = "f32"})
            return {f(table.unpack(arguments, 1, arguments.n))} -- without setting the seed
          end
          nn.manual_seed(11)
          local wanted = all()
          local compiled = nn.compile(all)
          for _ = 1, 2 do
            nn.manual_seed(11)
            local got
            local message = helpers.error_of(function() got = compiled() end)
            if message then
              assert(message:find("depends on values", 1, true), message)
              return
            end
            assert(#got == #wanted, "as many results")
            for i, x in ipairs(wanted) do helpers.assert_same("result " .. i, got[i], x) end
          end
        end)

        if not samples.undefined[name] then
          it("gives the same bits through nn.checkpoint" .. with, function()
            local wanted = samples.everything(record, f, case, "f32")
            local got = samples.everything(record, function(...) return nn.checkpoint(f, ...) end, case, "f32")
            assert(#got == #wanted, "as many results")
            for i, x in ipairs(wanted) do helpers.assert_same("result " .. i, got[i], x) end
          end)
        end

        if pure then
          it("does not see how its inputs lie in memory" .. with, function()
            local wanted = samples.everything(record, f, case, "f32")
            for _, kind in ipairs {"t", "s", "c"} do
              local options = {map = function(x) return helpers.layout(x, kind) end}
              local got
              local message = helpers.error_of(function() got = samples.everything(record, f, case, "f32", options) end)
              if message then -- some layouts cannot be viewed as some shapes
                assert(record.traits.view and begins(message, name), message)
              elseif not samples.undefined[name] then
                assert(#got == #wanted, "as many results")
                local scales = kind == "c" and another_order[record.family] and samples.scales(record, f, case)
                for i, x in ipairs(wanted) do
                  local what = "layout " .. kind .. ", result " .. i
                  if scales then
                    helpers.assert_close(what, got[i], x, {c = error_bound, scale = scales[i]})
                  else
                    helpers.assert_same(what, got[i], x)
                  end
                end
              end
            end
          end)

          it("leaves its inputs alone" .. with, function()
            local arguments = samples.arguments(record, case, {dtype = "f32"})
            local before = snapshot(arguments)
            samples.call(record, f, arguments)
            assert_unchanged(arguments, before)
          end)
        end

        if record.traits.inplace then
          it("has a twin in place that gives the same" .. with, function()
            local arguments = samples.arguments(record, case, {dtype = "f32"})
            if not nn.is_tensor(arguments[1]) then return end
            if samples.own_twin[name] and arguments.n == 1 then return end
            local twin = arguments[1][name .. "_"]
            local wanted = samples.call(record, f, arguments)[1]
            if category[wanted.dtype] > category[arguments[1].dtype] or
              helpers.shape_text(wanted.shape) ~= helpers.shape_text(arguments[1].shape) then
              assert_refused({name = name .. "_"}, twin, arguments, "a higher type or another shape")
              return
            end
            wanted = wanted:to(arguments[1].dtype)
            local fresh = samples.arguments(record, case, {dtype = "f32"})
            local result = samples.call(record, twin, fresh)[1]
            assert(rawequal(result, fresh[1]), "the result is the first argument")
            helpers.assert_same("in place", result, wanted)
            if helpers.is_float(wanted) then
              local leaf = samples.arguments(record, case, {dtype = "f32"})
              leaf[1].requires_grad = true
              assert_refused({name = name .. "_"}, twin, leaf, "a leaf that requires a gradient")
            end
          end)
        end

        if record.traits.elementwise and pure then
          local shape, tensors = common_shape(case)
          if shape and #shape >= 2 then
            it("takes empty and 0-d inputs" .. with, function()
              for _, dtype in ipairs {"f32", "f64"} do
                for _, small in ipairs {{0, 4}, {3, 0}, {}, {1}, {0}} do
                  local values = samples.everything(record, f, case, dtype, {shape = function() return small end})
                  assert(helpers.shape_text(values[1].shape) == helpers.shape_text(small),
                    "the result of " .. helpers.shape_text(small) .. " is " .. helpers.shape_text(values[1].shape))
                end
              end
            end)
          end
          if shape and #shape >= 2 and tensors >= 2 and deterministic then
            it("broadcasts as if the inputs were expanded" .. with, function()
              for turn = 1, tensors do
                local function run(expanded)
                  local place = 0
                  return samples.everything(record, f, case, "f32", {
                    grad = false,
                    shape = function(spec)
                      place = place + 1
                      local own = copy_of(spec.shape)
                      if place == turn then own[#own] = 1 elseif #own > 1 then own[1] = 1 end
                      return own
                    end,
                    map = function(x)
                      return expanded and x:expand(shape):contiguous() or x
                    end,
                  })
                end
                local got, wanted = run(false), run(true)
                for i, x in ipairs(wanted) do helpers.assert_same("result " .. i, got[i], x) end
              end
            end)
            it("refuses shapes that do not broadcast" .. with, function()
              local place = 0
              local arguments = samples.arguments(record, case, {shape = function(spec)
                place = place + 1
                return place == 1 and {3, 5} or spec.shape
              end})
              assert_refused(record, f, arguments, "3x5")
            end)
          end
        elseif pure then
          it("runs on empty inputs or refuses them properly" .. with, function()
            for _, which in ipairs {"first", "last", "all"} do
              local arguments = samples.arguments(record, case, {shape = function(spec)
                local own = copy_of(spec.shape)
                for d = 1, #own do
                  if which == "all" or which == "first" and d == 1 or which == "last" and d == #own then own[d] = 0 end
                end
                return own
              end})
              assert_run_or_refused(record, f, arguments, "empty in the " .. which .. " dimension")
            end
          end)
        end

        if number == 1 then
          it("runs on wrong shapes or refuses them properly" .. with, function()
            local count = #samples.arguments(record, case).tensors
            for _, odd in ipairs {{}, {7}, {5, 7}, {2, 3, 1, 5}, {1, 1, 1, 1, 1, 2, 1, 3}} do
              for turn = 1, count do
                local place = 0
                local arguments = samples.arguments(record, case, {dtype = "f32", shape = function(spec)
                  place = place + 1
                  return place == turn and odd or spec.shape
                end})
                assert_run_or_refused(record, f, arguments, helpers.shape_text(odd) .. " as tensor " .. turn)
              end
            end
          end)
        end
      end

      -- Wrong calls, from a right one.
      local case = cases[1]
      if not case then return end

      it("refuses a wrong number of arguments", function()
        local first = record.params[1]
        if first and not first.optional and not first.variadic then
          local message = helpers.error_of(f)
          assert(message and begins(message, name), "without arguments: " .. tostring(message))
        end
        for _, param in ipairs(record.params) do
          if param.variadic then return end
        end
        local arguments = samples.arguments(record, case, {dtype = "f32"})
        arguments.n = #record.params + 1
        arguments[arguments.n] = 1
        assert_refused(record, f, arguments, "one argument too many")
      end)

      it("refuses arguments of a wrong kind", function()
        local given = samples.arguments(record, case, {dtype = "f32"})
        for i, param in ipairs(record.params) do
          local wrong = copy_of(given)
          wrong.n = math.max(given.n, i)
          if param.tensor then
            for _, value in ipairs {"a string", print, true} do
              if not (param.scalar and value == true) then
                wrong[i] = param.list and {value} or value
                assert_refused(record, f, wrong, param.name .. " = " .. tostring(value))
              end
            end
          elseif i <= given.n or not param.variadic then
            wrong[i] = print
            assert_refused(record, f, wrong, param.name .. " = a function")
            local numeric = {int = 1, num = 1, size = 1, dim = 1, newdim = 1, pos = 1}
            if not param.list and not param.count and numeric[param.type] then
              wrong[i] = {1, 2}
              assert_refused(record, f, wrong, param.name .. " = {1, 2}")
              wrong[i] = "a string"
              assert_refused(record, f, wrong, param.name .. " = a string")
            end
            if ({int = 1, size = 1, dim = 1, newdim = 1, pos = 1})[param.type] and not param.list then
              wrong[i] = 1.5
              assert_refused(record, f, wrong, param.name .. " = 1.5")
            end
            if ({dim = 1, newdim = 1, pos = 1})[param.type] and not param.list then
              wrong[i] = 0
              assert_refused(record, f, wrong, param.name .. " = 0")
            end
            if ({dim = 1, newdim = 1})[param.type] and not param.list then
              wrong[i] = 9
              assert_refused(record, f, wrong, param.name .. " = 9")
            end
            if param.type == "word" then
              wrong[i] = "no such word"
              assert_refused(record, f, wrong, param.name .. " = no such word")
            end
          end
        end
      end)

      it("refuses tensors of a wrong type", function()
        for _, param in ipairs(record.params) do
          local dtype = param.tensor and wrong_type[param.type]
          if dtype and case.value[param.name] then
            local tensor = false -- this case may give a number for it
            local arguments = samples.arguments(record, case, {dtype = "f32", map = function(x, p)
              if p.name ~= param.name then return x end
              tensor = true
              return x:to(dtype)
            end})
            if tensor then
              local message = assert_refused(record, f, arguments, param.name .. " of type " .. dtype)
              if param.type == "index" then assert(message:find("i64", 1, true), "no advice in: " .. message) end
            end
          end
        end
      end)

      it("refuses an unknown option", function()
        local arguments = samples.arguments(record, case, {dtype = "f32"})
        arguments.n = arguments.n + 1
        arguments[arguments.n] = {no_such_option = 1}
        local message = assert_refused(record, f, arguments, "an unknown option")
        assert(message:find("no_such_option", 1, true), "the message does not name it: " .. message)
      end)

      it("takes its optional arguments by name, too", function()
        local given = samples.arguments(record, case, {dtype = "f32"})
        local required = 0
        for i, param in ipairs(record.params) do
          if not param.optional then required = i end
        end
        if given.n <= required or record.traits.in_place or samples.undefined[name] then return end
        local by_name, options = {n = required + 1, tensors = given.tensors}, {}
        for i = 1, required do by_name[i] = given[i] end
        for i = required + 1, given.n do options[record.params[i].name] = given[i] end
        by_name[by_name.n] = options
        local wanted, got = samples.call(record, f, given), samples.call(record, f, by_name)
        for i, x in ipairs(wanted) do helpers.assert_same("result " .. i, got[i], x) end
      end)

      it("is a method of its first argument, where that is a tensor", function()
        local first = record.params[1]
        local method = first and first.tensor and not first.list and not first.optional
        if not method or record.traits.no_method then return end
        local arguments = samples.arguments(record, case, {dtype = "f32"})
        if not nn.is_tensor(arguments[1]) or samples.undefined[name] then return end
        local again = samples.arguments(record, case, {dtype = "f32"})
        local wanted = samples.call(record, f, arguments)
        local got = samples.call(record, again[1][name], again)
        for i, x in ipairs(wanted) do helpers.assert_same("result " .. i, got[i], x) end
      end)
    end)
  end
end

---------------------------------------------------------------- other processes

describe("all ops", function()
  local function results(flags, part)
    local path = os.tmpname()
    local words = copy_of(flags)
    words[#words + 1] = helpers.folder .. "all_ops.lua"
    words[#words + 1] = path
    words[#words + 1] = part
    local status, _, complaint = helpers.nnlua(words)
    assert(status == 0, complaint)
    local tensors = nn.load(path)
    local copies = {}
    for name, x in pairs(tensors) do copies[name] = x:clone() end
    os.remove(path)
    return copies
  end

  local function names_of(t)
    local names = {}
    for name in pairs(t) do names[#names + 1] = name end
    table.sort(names)
    return names
  end

  for _, part in ipairs {"small", "large"} do
    it("give the same bits with one thread and with two, on " .. part .. " inputs", function()
      local one, two = results({"--threads", "1"}, part), results({"--threads", "2"}, part)
      local names = names_of(one)
      assert(#names > 0 and #names == #names_of(two), "as many results")
      for _, name in ipairs(names) do
        -- large tensors are compared as a whole: one element after the other takes minutes
        if not one[name]:equal(two[name]) then helpers.assert_same(name, two[name], one[name]) end
      end
    end)
  end

  for _, isa in ipairs {"avx2", "avx512", "neon"} do
    it("agree between the instruction sets base and " .. isa, function()
      local status, _, complaint = helpers.nnlua {"-e", ""}
      assert(status == 0, complaint)
      status, _, complaint = helpers.nnlua {"--isa", isa, "-e", ""}
      if status ~= 0 then
        pending("this machine has no " .. isa .. ": " .. complaint)
        return
      end
      local base, other = results({"--isa", "base"}, "small"), results({"--isa", isa}, "small")
      assert(#names_of(base) == #names_of(other), "as many results")
      for _, record in ipairs(records) do
        local f = samples.op(record)
        if f then
          for k, case in ipairs(usable_cases(record, f)) do
            local scales
            for _, dtype in ipairs {"f32", "f64"} do
              local prefix = ("%s.%d.%s."):format(record.name, k, dtype)
              for i = 1, 99 do
                local name = prefix .. ("%02d"):format(i)
                if not base[name] then break end
                if helpers.is_float(base[name]) and (not record.traits.random or record.has_define)
                  and not record.traits.in_place then
                  scales = scales or samples.scales(record, f, case)
                  helpers.assert_close(name, other[name], base[name],
                    {c = 2 * (record.error or 8), scale = scales[i]})
                else
                  helpers.assert_close(name, other[name], base[name], {c = 2 * (record.error or 8)})
                end
              end
            end
          end
        end
      end
    end)
  end
end)
