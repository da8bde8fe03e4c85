-- The command as a subprocess: scripts, options, the environment, help, the prompt on a terminal.
local helpers = require "spec.helpers"

local folder = os.tmpname()
os.remove(folder)
os.execute("mkdir -p '" .. folder .. "'")

local function write(name, text)
  local path = folder .. "/" .. name
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  return path
end

-- Runs the command, with variables of the environment and standard input as a text.
local function nnlua(words, options)
  options = options or {}
  local all = {"env"}
  for _, assignment in ipairs(options.env or {}) do all[#all + 1] = assignment end
  all[#all + 1] = options.program or helpers.build .. "/nnlua"
  for _, word in ipairs(words) do all[#all + 1] = word end
  return helpers.spawn(all, {input = options.input and write("input", options.input)})
end

local function contains(text, part)
  assert.is_truthy(text:find(part, 1, true), ("%q is not in:\n%s"):format(part, text))
end

-- The command ends well and prints exactly this.
local function prints(wanted, words, options)
  local status, out, err = nnlua(words, options)
  assert.equal("", err)
  assert.equal(wanted, out)
  assert.equal(0, status)
end

-- The command ends with status 1; the parts are on standard error.
local function fails(parts, words, options)
  local status, out, err = nnlua(words, options)
  for _, part in ipairs(parts) do contains(err, part) end
  assert.equal(1, status)
  return out, err
end

teardown(function() os.execute("rm -rf '" .. folder .. "'") end)

describe("a script", function()
  it("gets its arguments in arg and in ...", function()
    local path = write("args.lua", "print(#arg, arg[0], arg[1], arg[2], arg[-1] ~= nil, ...)")
    prints(("2\t%s\ta b\t-x\ttrue\ta b\t-x\n"):format(path), {path, "a b", "-x"})
    prints(("0\t%s\tnil\tnil\ttrue\n"):format(path), {path})
  end)

  it("has the options in front at negative places of arg", function()
    local path = write("args.lua", "print(arg[-1], arg[-2], arg[-3]:match '[^/]+$')")
    prints("1\t--threads\tnnlua\n", {"--threads", "1", path})
  end)

  it("requires the library, which gives the same table each time", function()
    local path = write("same.lua", 'local nn = require "nnlua"\nprint(nn == require "nnlua", nn.tensor({1, '
      .. '2}):sum():item())')
    prints("true\t3.0\n", {path})
  end)

  it("fails with its line, a traceback and status 1", function()
    local path = write("bad.lua", "print 'before'\nlocal function f()\n  error 'no good'\nend\nf()\n")
    local out, err = fails({path .. ":3: no good", "stack traceback:", path .. ":5: in main chunk"}, {path})
    assert.equal("before\n", out)
    assert.equal(1, (err:find(path .. ":3: no good", 1, true)))
  end)

  it("gets the line of its own call when an op fails", function()
    local path = write("op.lua", 'local nn = require "nnlua"\n\nnn.ones(2, 3):matmul(nn.ones(2, 3))\n')
    fails({path .. ":3: matmul: "}, {path})
  end)

  it("fails with the place of a syntax error", function()
    local path = write("syntax.lua", "x = = 1\n")
    fails({path .. ":1: unexpected symbol near '='"}, {path})
  end)

  it("that is not there is an error", function()
    fails({"cannot open", folder .. "/none.lua"}, {folder .. "/none.lua"})
  end)

  it("may throw tables, nil and numbers", function()
    fails({"(error object is a table value)"}, {write("throw.lua", "error {}")})
    fails({"I am it"}, {write("throw.lua",
      "error(setmetatable({}, {__tostring = function() return 'I am it' end}))")})
    fails({"(error object is a nil value)"}, {write("throw.lua", "error()")})
    fails({"42"}, {write("throw.lua", "error(42)")})
  end)

  it("may end the program itself", function()
    assert.equal(3, (nnlua {write("exit.lua", "io.write 'x' os.exit(3)")}))
    assert.equal(0, (nnlua {write("exit.lua", "os.exit(true)")}))
    assert.equal(1, (nnlua {write("exit.lua", "os.exit(false, true)")}))
    local close = 'local nn = require "nnlua" local x = nn.ones(3, {requires_grad = true}) local y = x * 2 '
      .. 'os.exit(5, true)'
    assert.equal(5, (nnlua {write("exit.lua", close)}))
  end)

  it("closes its variables and finalizers at the end", function()
    prints("end\ngone\n", {write("gc.lua", "X = setmetatable({}, {__gc = function() print 'gone' end}) print 'end'")})
  end)

  it("comes from standard input with -", function()
    prints("x\t1\n", {"-", "x"}, {input = "print(arg[1], #arg)"})
    fails({"stdin:2: oops"}, {"-"}, {input = "\nerror 'oops'"})
  end)

  it("comes from standard input when that is no terminal, with nn loaded", function()
    prints("3.0\n", {}, {input = "local two = 2\nprint(nn.tensor({1, two}):sum():item())\n"})
    fails({"stdin:1: oops"}, {}, {input = "error 'oops'"})
    prints("", {}, {input = ""})
  end)

  it("may start with a line for the shell", function()
    prints("1\n", {write("shell.lua", "#!/usr/bin/env nnlua\nprint(1)\n")})
  end)

  it("writes whole output through a pipe", function()
    local path = write("long.lua", "for i = 1, 20000 do print(i) end error 'at the end'")
    local pipe = io.popen(("'%s/nnlua' '%s' 2>/dev/null | tail -n 1"):format(helpers.build, path))
    assert.equal("20000\n", pipe:read "a")
    pipe:close()
  end)

  it("runs the same under stock Lua", function()
    local lua = os.getenv "LUA" or "lua5.4"
    local path = write("stock.lua", 'local nn = require "nnlua" nn.manual_seed(3) print(nn.randn(2, 3), '
      .. 'nn.threads(), ...)')
    local env = {("LUA_CPATH=%s/?.so"):format(helpers.build), "LUA_PATH=", "NNLUA_THREADS=2"}
    local status, wanted = nnlua({path, "z"}, {env = {"NNLUA_THREADS=2"}})
    assert.equal(0, status)
    local _, out, err = nnlua({path, "z"}, {env = env, program = lua})
    if err:find "ASan runtime does not come first" then return end
    assert.equal("", err)
    assert.equal(wanted, out)
    contains(out, "\t2\tz\n")
  end)
end)

describe("-e, -l and -i", function()
  it("run code with nn loaded, in their order", function()
    prints("6.0\n", {"-e", "x = nn.tensor({1, 2, 3})", "-e", "print(x:sum():item())"})
    prints("7\n", {"-eprint(7)"})
    prints("", {"-e", ""})
  end)

  it("load modules into globals", function()
    write("thing.lua", "return {name = 'thing'}")
    local env = {"LUA_PATH=" .. folder .. "/?.lua"}
    prints("thing\n", {"-l", "thing", "-e", "print(thing.name)"}, {env = env})
    prints("thing\tnil\n", {"-lt=thing", "-e", "print(t.name, thing)"}, {env = env})
  end)

  it("come before the script", function()
    prints("5\n", {"-e", "y = 5", write("y.lua", "print(y)")})
  end)

  it("stop at the first error", function()
    local out = fails({"(command line):1: no", "stack traceback"}, {"-e", "error 'no'", "-e", "print 'after'"})
    assert.equal("", out)
    fails({"(command line):1:", "unexpected symbol"}, {"-e", "= 1"})
    fails({"module 'not.there' not found"}, {"-l", "not.there"})
  end)

  it("want an argument", function()
    fails({"-e wants an argument", "usage:"}, {"-e"})
    fails({"-l wants an argument"}, {"-l"})
  end)

  it("-i goes on reading after the script, also after its error", function()
    local status, out = nnlua({"-i", write("i.lua", "z = 4")}, {input = "z + 1\nfor i = 1, 2 do\nprint(i)\nend\n"})
    assert.equal(0, status)
    assert.equal("5\n1\n2\n", out)
    local _, after, err = nnlua({"-i", write("i.lua", "w = 1 error 'broken'")}, {input = "w\nerror 'again'\nw + 1\n"})
    contains(err, "broken")
    contains(err, "stdin:1: again")
    assert.equal("1\n2\n", after)
  end)
end)

describe("options", function()
  it("that are unknown are errors, with the nearest one", function()
    fails({"unknown option --thread (did you mean --threads?)", "usage: nnlua"}, {"--thread", "2"})
    fails({"unknown option -z", "usage: nnlua"}, {"-z"})
  end)

  it("set threads, the memory limit and the instruction set", function()
    prints("1\n", {"--threads", "1", "-e", "print(nn.threads())"})
    prints("1\n", {"--threads=1", "-e", "print(nn.threads())"})
    prints(("%d\n"):format(64 << 20), {"--memory-limit", "64M", "-e", "print(nn.memory().limit)"})
    prints(("%d\n"):format(3 << 29), {"--memory-limit=1.5G", "-e", "print(nn.memory().limit)"})
    prints("5000000\n", {"--memory-limit=5000000", "-e", "print(nn.memory().limit)"})
    fails({"not enough memory"}, {"--memory-limit=4096", "-e", ""})
    prints("base\n", {"--isa", "base", "-e", "print(nn.info().isa)"})
  end)

  it("with wrong values say what is wanted", function()
    for _, value in ipairs {"0", "-1", "x", "1.5", "2000", "", "1e2"} do
      fails({('threads is "%s", a number from 1 to 1024 is wanted'):format(value)}, {"--threads=" .. value, "-e", ""})
    end
    for _, value in ipairs {"x", "-5", "12Q", "5MB", "", "1e300", "nan", "inf"} do
      fails({('memory limit is "%s"'):format(value), "as in 512M or 2G"}, {"--memory-limit=" .. value, "-e", ""})
    end
    fails({'isa is "sse9", but it can be: base, avx2, avx512, neon'}, {"--isa", "sse9", "-e", ""})
    local other = helpers.nn.info().isa == "neon" and "avx2" or "neon"
    fails({"isa " .. other .. " is not supported by this processor or build"}, {"--isa", other, "-e", ""})
    fails({"--threads wants an argument"}, {"--threads"})
  end)

  it("come from the environment, too; the command line counts", function()
    local show = {"-e", "print(nn.threads(), nn.memory().limit, nn.info().isa)"}
    local env = {"NNLUA_THREADS=1", "NNLUA_MEMORY_LIMIT=2G", "NNLUA_ISA=base"}
    prints(("1\t%d\tbase\n"):format(2 << 30), show, {env = env})
    prints("2\n", {"--threads", "2", "-e", "print(nn.threads())"}, {env = env})
    fails({'NNLUA_THREADS: threads is "many"'}, show, {env = {"NNLUA_THREADS=many"}})
    fails({'NNLUA_MEMORY_LIMIT: memory limit is "lots"'}, show, {env = {"NNLUA_MEMORY_LIMIT=lots"}})
    fails({'NNLUA_ISA: isa is "fast"'}, show, {env = {"NNLUA_ISA=fast"}})
    assert.equal(0, (nnlua(show, {env = {"NNLUA_THREADS=", "NNLUA_ISA="}})))
  end)

  it("a memory limit is an error that pcall catches", function()
    prints("false\ttrue\ttrue\n", {"--memory-limit", "16M", "-e",
      "local ok, why = pcall(nn.zeros, 1000, 10000) print(ok, why:find('memory') ~= nil, "
        .. "nn.zeros(10):sum():item() == 0)"})
  end)

  it("-v, -h and -- are there", function()
    for _, option in ipairs {"-v", "--version"} do
      local _, out = nnlua {option}
      assert.is_truthy(out:find "^nnlua %d+%.%d+%.%d+  %(Lua 5%.4")
    end
    for _, option in ipairs {"-h", "--help"} do
      local status, text = nnlua {option}
      assert.equal(0, status)
      contains(text, "usage: nnlua")
    end
    prints("1\n", {"--", write("one.lua", "print(1)")})
  end)
end)

describe("help and info", function()
  it("shows an op: how to call it, what it does, an example and what that gives", function()
    local status, out, err = nnlua {"help", "softmax"}
    assert.equal(0, status)
    assert.equal("", err)
    for _, part in ipairs {"nn.softmax(input, dim = -1, [dtype])", "exp(x)", "x:softmax", "Example",
      "0.6652"} do contains(out, part) end
  end)

  it("knows names however they are written", function()
    for name, part in pairs {["nn.relu"] = "nn.relu(input)", ["x:relu_"] = "x:relu_", ["nn.F.relu"] = "max(0, x)",
      Linear = "nn.Linear(in_features, out_features, bias = true)", ["nn.Linear"] = "x W^T + b",
        Adam = "nn.optim.Adam(",
      ["optim.Adam"] = "1412.6980", CrossEntropyLoss = "label_smoothing", ["data.Loader"] = "shuffle",
      ["init.xavier_uniform_"] = "tensor", backward = "x:backward(", shape = "x.shape",
        state_dict = "net:state_dict(",
      ["Module.clone"] = "net:clone()", optim = "AdamW", subscripts = "x[", save = "safetensors",
        ["nn.tensor"] = "dtype"} do
      local status, out, err = nnlua {"help", name}
      assert.equal("", err)
      assert.equal(0, status)
      contains(out, part)
    end
  end)

  it("of an unknown name suggests the nearest one and fails", function()
    local out = fails({"there is no help for 'softmx' (did you mean 'softmax'?)"}, {"help", "softmx"})
    assert.equal("", out)
    fails({"(did you mean 'Sequential'?)"}, {"help", "Sequentail"})
    fails({"there is no help for 'qqqqqqqq';"}, {"help", "qqqqqqqq"})
  end)

  it("without a name lists all ops and classes", function()
    local status, out = nnlua {"help"}
    assert.equal(0, status)
    for _, name in ipairs(helpers.nn.F and {"relu", "matmul", "sigmoid", "CrossEntropyLoss", "Sequential", "AdamW",
      "StepLR",
      "clip_grad_norm_", "TensorDataset", "backward", "shape"}) do
      assert.is_truthy((" " .. out:gsub("\n", " ") .. " "):find(" " .. name .. " ", 1, true), name)
    end
    for line in out:gmatch "[^\n]+" do assert.is_true(#line <= 100, line) end
  end)

  it("info tells of this build and machine", function()
    prints("2\n", {"-e", "print(nn.threads())"}, {env = {"NNLUA_THREADS=2"}})
    local status, out = nnlua({"info"}, {env = {"NNLUA_THREADS=2", "NNLUA_ISA=base"}})
    assert.equal(0, status)
    for _, part in ipairs {"nnlua " .. helpers.nn.version, "instruction set  base", "threads          2 of", "BLAS",
      "zlib"} do
      contains(out, part)
    end
  end)

  it("annotations are a Lua file", function()
    local status, out = nnlua {"annotations"}
    assert.equal(0, status)
    assert.is_truthy(load(out, "=nnlua.d.lua"))
    for _, part in ipairs {"---@class nnlua.Tensor", "function Tensor:softmax(dim, dtype) end",
      "function nn.matmul(input, other) end",
      "---@class nnlua.Linear : nnlua.Module", "function nn.Module:state_dict(options) end", "---@class nnlua.Adam",
      "---@overload fun(in_features: integer, out_features: integer, bias?: boolean): nnlua.Linear"} do
      contains(out, part)
    end
  end)
end)

describe("the prompt", function()
  local python = os.execute "python3 -c 'import pty' 2>/dev/null"

  -- Types the steps on a terminal; returns all that was printed.
  local function talk(steps, words, options)
    if not python then return pending "python3, which makes the terminal, is not there" end
    options = options or {}
    local list = {"env", "HOME=" .. folder, "TERM=xterm"}
    for _, assignment in ipairs(options.env or {}) do list[#list + 1] = assignment end
    local file = write("steps", table.concat(steps, "\n") .. "\n")
    for _, word in ipairs {"python3", helpers.folder .. "terminal.py", file, helpers.build
      .. "/nnlua"} do list[#list + 1] = word end
    for _, word in ipairs(words or {}) do list[#list + 1] = word end
    local status, out, err = helpers.spawn(list)
    assert.equal("", err)
    assert.equal(options.status or 0, status, out)
    return (out:gsub("\r", ""))
  end

  it("prints values of expressions, runs statements, and ends with Ctrl-D", function()
    talk {"expect nnlua", "expect > ", "send 1 + 2, 'two'\\r", "expect 3\\ttwo", "expect > ",
      "send x = nn.ones(2, 3)\\r", "expect > ",
      "send x\\r", "expect [f32 2x3]", "expect > ", "send x.shape\\r", "expect 2x3", "expect > ",
        "send {1, {k = 'v'}}\\r",
      'expect {1, {k = "v"}}', "expect > ", "send print('pr' .. 'inted')\\r", "expect printed", "expect > ",
      "send nil\\r", "expect nil", "expect > ", "send \\x04"}
  end)

  it("takes input over several lines", function()
    talk {"expect > ", "send for i = 1, 2 do\\r", "expect >> ", "send print('line' .. i)\\r", "expect >> ",
      "send end\\r",
      "expect line1", "expect line2", "expect > ", "send 'long\\\\\\r", "expect >> ", "send er'\\r",
        "expect long\\r\\ner", "expect > ",
      "send \\x04"}
  end)

  it("goes on after errors", function()
    talk {"expect > ", "send error('b' .. 'ad')\\r", "expect stdin:1: bad", "expect traceback", "expect > ",
      "send x = = 1\\r",
      "expect unexpected symbol", "expect > ", "send nn.ones(2):matmul(nn.ones(3))\\r", "expect matmul: ",
        "expect > ",
      "send 6 * 7\\r", "expect 42", "expect > ", "send \\x04"}
  end)

  it("completes ops, methods, fields and names in help", function()
    local out = talk {"expect > ", "send nn.rel\\t\\t", "expect nn.relu6", "send (nn.tensor({-3, 5})):tota\\t()\\r",
      "expect {0.0, 5.0}",
      "expect > ", "send net = nn.Linear(2, 3)\\r", "expect > ", "send net.wei\\t.sha\\t\\r", "expect 3x2",
        "expect > ",
      "send net:state_d\\t().bias.shape\\r", "expect 3", "expect > ", "send x = nn.ones(4, 5)\\r",
        "expect > ",
      "send x:rel\\t\\t", "expect x:relu_", "send \\x03", "expect ^C", "expect > ",
      "send x.sh\\t\\r", "expect 4x5", "expect > ",
      "send nn.ones(7):nume\\t()\\r", "expect 7", "expect > ", "send help 'softpl\\t'\\r", "expect nn.softplus(",
        "expect > ",
      "send \\x04"}
    contains(out or "nn.relu6", "nn.relu6")
  end)

  it("gives up a line, and a half-written statement, at Ctrl-C", function()
    talk {"expect > ", "send broken +\\x03", "expect ^C", "expect > ", "send 1 + 1\\r", "expect 2", "expect > ",
      "send function f(\\r", "expect >> ",
      "send a, b\\x03", "expect ^C", "expect > ", "send 2 + 3\\r", "expect 5", "expect > ", "send \\x04"}
  end)

  it("stops a loop and a long op at Ctrl-C", function()
    talk {"expect > ", "send while true do end\\r", "pause 0.5", "send \\x03", "expect stdin:1: interrupted",
      "expect > ",
      "send a = nn.randn(1500, 1500)\\r", "expect > ", "send while true do a:matmul(a) end\\r", "pause 1",
        "send \\x03",
      "expect stdin:1: interrupted", "expect > ", "send while true do pcall(a.matmul, a, a) end\\r", "pause 1",
        "send \\x03",
      "expect interrupted", "expect > ", "send a:size(1) + 1\\r", "expect 1501", "expect > ", "send \\x04"}
  end)

  it("stops a script at Ctrl-C with status 1", function()
    local path = write("forever.lua", 'local nn = require "nnlua"\nprint "begun"\nlocal a = nn.randn(1200, 1200)\n'
      .. "while true do a:matmul(a) end\n")
    local out = talk({"expect begun", "pause 0.5", "send \\x03", "expect interrupted"}, {path}, {status = 1})
    contains(out or path .. ":4: interrupted", path .. ":4: interrupted")
  end)

  it("keeps what was typed in ~/.nnlua_history", function()
    os.remove(folder .. "/.nnlua_history")
    talk {"expect > ", "send first = 11\\r", "expect > ", "send second = 22\\r", "expect > ", "send \\x04"}
    local out = talk {"expect > ", "send \\x1b[A\\x1b[A\\r", "expect > ", "send first\\r", "expect 11", "expect > ",
      "send os.exit(0)\\r"}
    if not out then return end
    contains(helpers.slurp(folder .. "/.nnlua_history"), "second")
    contains(helpers.slurp(folder .. "/.nnlua_history"), "os.exit")
  end)

  it("reads UTF-8", function()
    for _, locale in ipairs {"C.UTF-8", "C"} do
      talk({"expect > ", "send #'\\xc3\\xa4\\xe2\\x82\\xac'\\r", "expect 5", "expect > ", "send \\x04"}, {},
        {env = {"LC_ALL=" .. locale}})
    end
  end)
end)
