-- What help says: every op and class explains itself, and every op's example runs.
local helpers = require "spec.helpers"
local nn = helpers.nn
local help = require "nnlua.help"
local docs = require "nnlua.docs"
local manual = require "nnlua.manual"

local function public_ops()
  local list = {}
  for _, record in ipairs(nn.ops()) do
    if not record.traits.hidden then list[#list + 1] = record end
  end
  return list
end

-- An example runs in a state of its own names.
local function run(example)
  local env = setmetatable({nn = nn}, {__index = _G})
  local chunk, why = load("return " .. example, "=example", "t", env)
  if not chunk then chunk, why = load(example, "=example", "t", env) end
  if not chunk then return why end
  local ok, message = pcall(chunk)
  if not ok then return tostring(message) end
end

describe("every op", function()
  it("has a text, an example and a family", function()
    local without = {}
    for _, record in ipairs(public_ops()) do
      for _, field in ipairs {"doc", "example", "family"} do
        if not record[field] or record[field] == "" then without[#without + 1] = record.name .. ": " .. field end
      end
    end
    assert.same({}, without)
  end)

  it("has an example that runs", function()
    local failures = {}
    for _, record in ipairs(public_ops()) do
      local why = run(record.example or "")
      if why then failures[#failures + 1] = ("%s: %s\n  %s"):format(record.name, record.example, why) end
    end
    assert.same({}, failures)
  end)

  it("is called by its example", function()
    local strangers = {}
    local operators = {add = "%+", sub = "%-", mul = "%*", div = "/", pow = "%^", neg = "%-", floor_divide = "//",
      remainder = "%%", bitwise_and = "&", bitwise_or = "|", bitwise_not = "~", bitwise_xor = "~"}
    for _, record in ipairs(public_ops()) do
      local example = record.example or ""
      if not example:find("%f[%w_]" .. record.name .. "_?%f[^%w_]") and not example:find(operators[record.name]
        or "\0") then
        strangers[#strangers + 1] = record.name .. ": " .. example
      end
    end
    assert.same({}, strangers)
  end)

  it("has a page with its call, all its parameters and no line too long", function()
    for _, record in ipairs(public_ops()) do
      local page = help.page(record.name)
      assert.is_truthy(page, record.name)
      assert.equal(1, (page:find("nn." .. record.name .. "(", 1, true)), record.name)
      for _, p in ipairs(record.params) do
        assert.is_truthy(page:find("\n  " .. p.name .. " ", 1, true), record.name .. ": " .. p.name)
      end
    end
  end)
end)

describe("every class", function()
  it("has a text: modules, losses, optimizers, schedules, datasets", function()
    local without = {}
    for prefix, library in pairs {[""] = nn, ["optim."] = nn.optim, ["data."] = nn.data} do
      for name, value in pairs(library) do
        local class = type(value) == "table" and name:find "^%u%w*%l" and value ~= nn.F
        if class and name ~= "Optimizer" and name ~= "LRScheduler" and not docs.entries[value] then
          without[#without + 1] = prefix .. name
        end
      end
    end
    assert.same({}, without)
  end)

  it("has a page that begins with its call", function()
    for _, entry in pairs(docs.entries) do
      local page = help.page(entry.name)
      assert.is_truthy(page, entry.name)
      assert.equal(1, (page:find("nn." .. entry.name, 1, true)), entry.name)
      assert.is_true(#entry.doc > 5, entry.name)
    end
  end)

  it("has an example that runs, given a net and data", function()
    local failures = {}
    for _, entry in pairs(docs.entries) do
      local example = entry.example
      if example and not example:find "path" and not example:find "mnist" and not example:find "^self" then
        local net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
        local x = nn.randn(4, 2)
        net(x):sum():backward()
        local env = setmetatable({nn = nn, net = net, x = x, opt = nn.optim.SGD(net:parameters(), 0.1),
          w = nn.empty(3, 5), ds = nn.data.TensorDataset(nn.randn(10, 2), nn.arange(10)), input = nn.rand(4, 2):log(),
          target = nn.rand(4, 2), images = nn.zeros(2, 1, 4, 4, {dtype = "u8"}), labels = nn.tensor({1, 2}, "i64"),
          linear = nn.Linear(2, 2), f = function(v) return (v * v):sum() end, step = function() end}, {__index = _G})
        if entry.name:find "BCELoss" then env.input = nn.rand(4, 2) end
        if entry.name:find "NLL" then env.target = nn.tensor({1, 2, 1, 2}, "i64") end
        local chunk, why = load("return " .. example, "=example", "t", env)
        if not chunk then chunk, why = load(example, "=example", "t", env) end
        local ok = chunk ~= nil
        if chunk then ok, why = pcall(chunk) end
        if not ok then failures[#failures + 1] = ("%s: %s\n  %s"):format(entry.name, example, tostring(why)) end
      end
    end
    assert.same({}, failures)
  end)
end)

describe("everything else", function()
  it("in nn has a text", function()
    local known = {}
    for _, entry in pairs(docs.entries) do known[entry.name] = true end
    manual.each(function(entry) known[entry.name] = true end)
    for _, record in ipairs(nn.ops()) do known[record.name], known[record.name .. "_"] = true, true end
    local without = {}
    for name, value in pairs(nn) do
      if type(value) == "function" and not known[name] and name ~= "fail_allocation"
        and name ~= "set_module_hooks" then
        without[#without + 1] = name
      end
    end
    for name in pairs(require("nnlua.native").methods) do
      if not known[name] and not help.page(name) then without[#without + 1] = "x:" .. name end
    end
    table.sort(without)
    assert.same({}, without)
  end)

  it("that has a text is there, and its example runs", function()
    local failures = {}
    manual.each(function(entry, kind)
      local place = kind == "functions" and nn or require("nnlua.native").methods
      if kind == "functions" or kind == "methods" then
        for part in entry.name:gmatch "[^.]+" do place = place and rawget(place, part) end
        if type(place) ~= "function" then failures[#failures + 1] = entry.name .. " is not there" end
      end
      if entry.example and not entry.example:find "%.safetensors" and not entry.example:find "%.npy"
        and not entry.example:find "%.gz" then
        local why = run(entry.example)
        if why then failures[#failures + 1] = entry.name .. ": " .. why end
      end
    end)
    assert.same({}, failures)
  end)

  it("that help knows by name has a page", function()
    for _, name in ipairs(help.names()) do
      local page, why = help.page(name)
      assert.is_truthy(page, why)
    end
  end)

  it("lists methods with the arguments that they take", function()
    local text = help.page("Module"):gsub("%s+", " ")
    for _, call in ipairs {"subclass(name)", "register_buffer(name, tensor, persistent)", "summary(...)"} do
      assert.is_truthy(text:find(call, 1, true), call .. " is not in: " .. text)
    end
  end)

  it("leaves the random numbers where they are", function()
    nn.manual_seed(5)
    help.page "randn"
    local x = nn.randn(3)
    nn.manual_seed(5)
    assert.is_true(x:equal(nn.randn(3)))
  end)
end)

describe("completion", function()
  local function completes(line, wanted)
    local word = line:match "[^%s\"'`@$><=;|&{}()%[%]+%-*/%%^~#,]*$"
    local found = {}
    for _, candidate in ipairs(help.complete(line, word)) do found[candidate] = true end
    for _, name in ipairs(wanted) do assert.is_true(found[name], line .. " -> " .. name) end
    return found
  end

  setup(function()
    _G.nn_for_spec, _G.x_for_spec, _G.net_for_spec = nn, nn.ones(2), nn.Linear(2, 3)
  end)
  teardown(function() _G.nn_for_spec, _G.x_for_spec, _G.net_for_spec = nil, nil, nil end)

  it("knows ops, classes and libraries", function()
    completes("nn_for_spec.rel", {"nn_for_spec.relu", "nn_for_spec.relu6"})
    completes("y = nn_for_spec.Lin", {"nn_for_spec.Linear"})
    completes("nn_for_spec.optim.Ad", {"nn_for_spec.optim.Adam", "nn_for_spec.optim.AdamW"})
    completes("nn_for_spec.F.soft", {"nn_for_spec.F.softmax"})
  end)

  it("knows methods and fields of tensors and modules", function()
    local found = completes("x_for_spec:rel", {"x_for_spec:relu", "x_for_spec:relu_"})
    assert.is_nil(found["x_for_spec:reshape"])
    completes("x_for_spec.sh", {"x_for_spec.shape"})
    completes("net_for_spec:param", {"net_for_spec:parameters"})
    completes("net_for_spec.w", {"net_for_spec.weight"})
    completes("net_for_spec.weight:su", {"net_for_spec.weight:sum"})
    completes("f(x):resh", {":reshape"})
    completes("x[1]:su", {":sum"})
    completes("('a'):up", {})
    completes("'a':up", {":upper"})
  end)

  it("knows globals, keywords and what help knows", function()
    completes("pri", {"print"})
    completes("func", {"function"})
    completes('help "optim.Ad', {"optim.Adam"})
    completes("help('softm", {"softmax"})
  end)

  it("does not mind what is not there", function()
    assert.same({}, help.complete("nothing.here.at", "nothing.here.at"))
    assert.same({}, help.complete("nn_for_spec.nosuch.x", "nn_for_spec.nosuch.x"))
    assert.is_table(help.complete("", ""))
  end)
end)

describe("the prompt's values", function()
  local inspect = require "nnlua.inspect"

  local function shown(...)
    local text
    local real = print
    _G.print = function(line) text = line end
    local ok, why = pcall(inspect, ...)
    _G.print = real
    assert.is_true(ok, why)
    return text
  end

  it("are shown with what tables hold", function()
    assert.equal("1\tnil\ttwo", shown(1, nil, "two"))
    assert.equal('{1, "two", x = {y = true}, ["a b"] = 2}', shown {1, "two", x = {y = true}, ["a b"] = 2})
    assert.equal("{}", shown {})
    assert.equal("2x3", shown(nn.ones(2, 3).shape))
    assert.equal("{{1., 1.}\n[f32 2]}", (shown({nn.ones(2)}):gsub("%s%s+", "\n"):gsub("^{\n", "{"):gsub("\n}$", "}")))
    local loop = {}
    loop.me = loop
    assert.equal("{me = {...}}", shown(loop))
    assert.is_true(#shown(setmetatable({}, nil)) == 2)
    local long = {}
    for i = 1, 1000 do long[i] = i end
    assert.is_true(#shown(long) < 500)
  end)
end)
