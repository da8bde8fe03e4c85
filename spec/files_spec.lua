-- Reading and writing files: safetensors, IDX, npy; and every way in which a file can be wrong.
local helpers = require "spec.helpers"
local nn = helpers.nn

local golden = helpers.folder .. "golden/files/"
local npy_save = nn.data.npy_save

---------------------------------------------------------------- help

local folder -- a fresh one for each spec

local function path(name) return folder .. "/" .. name end

local function write(name, bytes)
  local file = assert(io.open(path(name), "wb"))
  file:write(bytes)
  file:close()
  return path(name)
end

local function names(dir)
  local pipe = assert(io.popen("ls -A '" .. dir .. "'"))
  local list = {}
  for line in pipe:lines() do list[#list + 1] = line end
  pipe:close()
  return list
end

--- A safetensors file with this header and these data.
local function file_of(header, data) return string.pack("<s8", header) .. (data or "") end

local function message_of(f, ...) return (helpers.error_of(f, ...)) end

--- Calling f(file) fails, and the message has every one of the given texts, beginning with the path.
local function fails(f, file, ...)
  local message = helpers.error_of(f, file)
  assert(message, "no error")
  for _, text in ipairs {file, ...} do
    assert(message:find(text, 1, true), ("'%s' is not in: %s"):format(text, message))
  end
end

local function same(x, elements, shape, dtype)
  helpers.assert_same("tensor", x, helpers.tensor(elements, shape, dtype))
end

local function keys(t)
  local list = {}
  for k in pairs(t) do list[#list + 1] = k end
  table.sort(list)
  return list
end

describe("files", function()
  before_each(function()
    folder = os.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir '" .. folder .. "'"))
  end)
  after_each(function() os.execute("rm -rf '" .. folder .. "'") end)

  ---------------------------------------------------------------- round trips

  describe("nn.save and nn.load", function()
    it("give back tensors of every type and shape, bit by bit", function()
      local saved = {
        f32 = nn.tensor({{1.5, -2, 0.1}, {3, 4e30, -0.0}}),
        f64 = nn.tensor({0.1, 1e300, -1 / 3}, "f64"),
        i64 = nn.tensor({math.mininteger, -1, math.maxinteger}, "i64"),
        i32 = nn.tensor({-2147483648, 2147483647}, "i32"),
        u8 = nn.tensor({0, 128, 255}, "u8"),
        bool = nn.tensor({true, false, true}),
        scalar = nn.tensor(2.5),
        empty = nn.zeros(2, 0, 3),
        deep = nn.ones(1, 1, 2, 1, 1, 1, 1, 1),
      }
      nn.save(path "all.safetensors", saved)
      local loaded = nn.load(path "all.safetensors")
      assert.same(keys(saved), keys(loaded))
      for name, x in pairs(saved) do helpers.assert_same(name, loaded[name], x) end
      assert.same({"all.safetensors"}, names(folder))
    end)

    it("save views as they look", function()
      local x = nn.arange(12):reshape(3, 4)
      nn.save(path "views", {
        t = x:t(), step = x[{{1, 3, 2}, {2, 4, 2}}], wide = nn.tensor({7}):expand(3, 1), row = x[2],
      })
      local views = nn.load(path "views")
      same(views.t, {1, 5, 9, 2, 6, 10, 3, 7, 11, 4, 8, 12}, {4, 3}, "i64")
      same(views.step, {2, 4, 10, 12}, {2, 2}, "i64")
      same(views.wide, {7, 7, 7}, {3, 1}, "f32")
      same(views.row, {5, 6, 7, 8}, {4}, "i64")
    end)

    it("join the names of nested tables with dots, and take any UTF-8", function()
      nn.save(path "names", {
        a = {b = {c = nn.ones(1)}, nn.ones(2)},
        ["größe \"x\"\n\\名"] = nn.ones(3),
        [""] = nn.ones(4),
        ["x.y"] = nn.ones(5),
      })
      local loaded = nn.load(path "names")
      assert.same({"", "a.1", "a.b.c", "größe \"x\"\n\\名", "x.y"}, keys(loaded))
      assert.equal(3, loaded["größe \"x\"\n\\名"]:numel())
    end)

    it("keep metadata: strings as strings, numbers as numbers, booleans as booleans", function()
      local meta = {
        epoch = 3, lr = 3.0, small = 1e-7, third = 1 / 3, least = math.mininteger, huge = math.huge, text = "3",
        yes = true, no = "false", empty = "", ["größe\n"] = "\"\\\0\1",
      }
      nn.save(path "meta", {}, {meta = meta})
      local tensors, loaded = nn.load(path "meta")
      assert.is_nil(next(tensors))
      assert.same(meta, loaded)
      for k, v in pairs(meta) do assert.equal(math.type(v), math.type(loaded[k])) end
    end)

    it("write the same bytes whatever the order of the tables", function()
      local a, b, meta_a, meta_b = {}, {}, {}, {}
      for i = 1, 40 do
        a["t" .. i], meta_a["m" .. i] = nn.full({i % 3}, i), i
        b["t" .. 41 - i], meta_b["m" .. 41 - i] = nn.full({(41 - i) % 3}, 41 - i), 41 - i
      end
      nn.save(path "a", a, {meta = meta_a})
      nn.save(path "b", b, {meta = meta_b})
      assert.equal(helpers.slurp(path "a"), helpers.slurp(path "b"))
    end)

    it("leave the file alone when a loaded tensor is changed, and the tensor when the file is replaced", function()
      nn.save(path "x", {x = nn.zeros(3000)})
      local bytes = helpers.slurp(path "x")
      local x, y = nn.load(path "x").x, nn.load(path "x", {copy = true}).x
      x:add_(1)
      assert.equal(bytes, helpers.slurp(path "x"))
      nn.save(path "x", {x = nn.full({5}, 9)})
      collectgarbage()
      assert.equal(3000, x:sum():item())
      assert.equal(0, y:sum():item())
    end)

    it("load tensors that do not lie aligned in the file", function()
      local header = [[{"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
        "x":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}]]
      local loaded = nn.load(write("odd", file_of(header, "\7" .. string.pack("<ff", 0.5, -3))))
      same(loaded.b, {7}, {1}, "u8")
      same(loaded.x, {0.5, -3}, {2}, "f32")
    end)

    it("read escapes, spaces and any order of the fields", function()
      local header = [[{ "a\u00e9\ud83d\ude00\n\/" : {"data_offsets" : [ 0 , 1 ],
        "shape":[ ],	"dtype":"BOOL"} }   ]]
      same(nn.load(write("loose", file_of(header, "\1")))["aé😀\n/"], {true}, {}, "bool")
    end)

    it("read what Python's safetensors wrote", function()
      local t, meta = nn.load(golden .. "python.safetensors")
      same(t["layers.0.weight"], {-1.25, -0.75, -0.25, 0.25, 0.75, 1.25}, {2, 3}, "f32")
      same(t["layers.0.bias"], {0.1, -1e300}, {2}, "f64")
      same(t.ids, {math.mininteger, math.maxinteger}, {2, 1}, "i64")
      same(t.small, {-2147483648, 2147483647}, {2}, "i32")
      same(t.bytes, {0, 128, 255}, {3}, "u8")
      same(t.mask, {true, false, true}, {1, 3}, "bool")
      same(t.scalar, {2.5}, {}, "f32")
      same(t.empty, {}, {2, 0, 3}, "f32")
      same(t["größe \"x\"\t名"], {7}, {1}, "u8")
      assert.equal(9, #keys(t))
      assert.same({format = "np", epoch = "3", ["größe"] = "\"\\\n"}, meta)
    end)

    it("name a tensor of a type that cannot be read", function()
      fails(nn.load, golden .. "half.safetensors", "load: ", "half", "F16", "byte 25")
    end)
  end)

  ---------------------------------------------------------------- damaged safetensors

  describe("nn.load refuses", function()
    local function x(dtype, shape, offsets)
      return ([[{"x":{"dtype":"%s","shape":[%s],"data_offsets":[%s]}}]]):format(dtype, shape, offsets)
    end
    local one = x("F32", "2", "0,8")
    local data = ("\0"):rep(8)

    it("a file cut at any byte", function()
      nn.save(path "whole", {a = nn.ones(2), b = nn.tensor({1, 2}, "i64")}, {meta = {epoch = 3}})
      local bytes = helpers.slurp(path "whole")
      for n = 0, #bytes - 1 do fails(nn.load, write("cut", bytes:sub(1, n)), "byte ") end
      fails(nn.load, write("cut", bytes .. "\0"), "1 bytes", "belong to none")
    end)

    it("a file with any byte of its header damaged, or reads it with the sizes it has", function()
      nn.save(path "whole", {a = nn.ones(2), b = nn.tensor({true})}, {meta = {epoch = "3"}})
      local bytes = helpers.slurp(path "whole")
      for n = 1, #bytes do
        for _, bit in ipairs {1, 4, 128} do
          local damaged = bytes:sub(1, n - 1) .. string.char(bytes:byte(n) ~ bit) .. bytes:sub(n + 1)
          local ok, result = pcall(nn.load, write("damaged", damaged))
          if ok then
            local total = 0
            for _, t in pairs(result) do total = total + t:numel() * (t.dtype == "bool" and 1 or 4) end
            assert.equal(9, total)
          else
            assert(result:find(path "damaged", 1, true), result)
          end
        end
      end
    end)

    it("a header longer than the file or than 100 MB, before it asks for memory", function()
      fails(nn.load, write("long", string.pack("<I8", 101 * 1000 * 1000) .. "{}"), "byte 0", "101000000", "100000000")
      fails(nn.load, write("long", string.pack("<I8", 3) .. "{}"), "byte 0", "header of 3 bytes")
      fails(nn.load, write("long", string.pack("<i8", -1) .. "{}"), "byte 0", "header")
      fails(nn.load, write("none", file_of ""), "byte 8")
      fails(nn.load, write("empty", ""), "byte 0")
    end)

    local function header_case(name, header, bytes, ...)
      local wanted = {...}
      it(name, function() fails(nn.load, write("bad", file_of(header, bytes)), table.unpack(wanted)) end)
    end
    local function two(a, b)
      local tensor = [[{"dtype":"U8","shape":[4],"data_offsets":[%s]}]]
      return ('{"a":' .. tensor .. ',"b":' .. tensor .. "}"):format(a, b)
    end
    header_case("overlaps", two("0,4", "2,6"), ("\0"):rep(6), "'b' overlaps", "byte 2 of the data, not 4")
    header_case("two names for the same data", two("0,4", "0,4"), ("\0"):rep(4), "overlaps")
    header_case("gaps", two("0,4", "5,9"), ("\0"):rep(9), "'b' leaves a gap")
    header_case("a gap at the beginning", two("1,5", "5,9"), ("\0"):rep(9), "'a' leaves a gap")
    header_case("bytes behind the last tensor", one, data .. "\0", "1 bytes behind the last tensor")
    header_case("data that end early", one, data:sub(2), "'x'", "7 bytes of data")
    header_case("offsets that run backwards", x("F32", "2", "8,0"), data, "'x'")
    header_case("offsets that do not fit the shape", x("F32", "3", "0,8"), data,
      "takes 12 bytes, got 8", "shape 3")
    header_case("an empty tensor with data", x("F32", "0", "0,8"), data,
      "takes 0 bytes, got 8")
    header_case("a name twice", two("0,4", "4,8"):gsub('"b"', [["\u0061"]]), data, "'a' stands twice")
    header_case("a field twice", one:gsub('"shape"', '"dtype":"F32",%0'), data, "twice", "'dtype'")
    header_case("an unknown field", [[{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1}}]], data, "'more'")
    header_case("a missing field", [[{"x":{"dtype":"F32","data_offsets":[0,8]}}]], data, "has no shape")
    header_case("huge sizes", x("F32", "4611686018427387904,4,2", "0,8"), data, "larger than any memory")
    header_case("huge sizes beside a zero", x("F32", "4611686018427387904,4,0", "0,0"), "", "larger")
    header_case("a large size without its data", x("F32", "250000000", "0,1000000000"), data, "8 bytes of data")
    header_case("sizes that are no integers", x("F32", "2.0", "0,8"), data, "integers")
    header_case("negative sizes", x("F32", "-2", "0,8"), data, "integers")
    header_case("sizes beyond 64 bits", x("F32", "18446744073709551618", "0,8"), data, "integers")
    header_case("more than 8 dimensions", x("F32", "1,1,1,1,1,1,1,1,2", "0,8"), data, "more than 8")
    header_case("three offsets", x("F32", "2", "0,8,8"), data, "data_offsets")
    header_case("an unknown type", x("F33", "2", "0,8"), data, "'x'", "F33")
    header_case("a tensor that is no object", [[{"x":[1]}]], "", "object")
    header_case("metadata that are no strings", [[{"__metadata__":{"a":1}}]], "", "string")
    header_case("metadata twice", [[{"__metadata__":{},"__metadata__":{}}]], "", "twice")
    header_case("a metadata key twice", [[{"__metadata__":{"a":"1","a":"2"}}]], "", "'a'", "twice")
    header_case("a bool of 2", x("BOOL", "2", "0,2"), "\1\2", "byte 64", "BOOL")

    for _, case in ipairs {
      {"a list for a header", "[]"},
      {"text behind the header", "{}x"},
      {"a comma too much", '{"__metadata__":{},}'},
      {"a missing comma", '{"__metadata__":{"a":"1" "b":"2"}}'},
      {"a missing colon", '{"a" {}}'},
      {"open brackets", '{"a":{'},
      {"a name without quotes", "{a:1}"},
      {"single quotes", "{'a':1}"},
      {"bad UTF-8", '{"\xC3\x28":{}}'},
      {"overlong UTF-8", '{"\xC0\x80":{}}'},
      {"UTF-8 surrogates", '{"\xED\xA0\x80":{}}'},
      {"half a surrogate pair", [[{"\ud800":{}}]]},
      {"the second half alone", [[{"\udc00":{}}]]},
      {"an unknown escape", [[{"\x41":{}}]]},
      {"a line feed in a string", '{"a\nb":{}}'},
      {"leading zeros", '{"a":{"shape":[01]}}'},
      {"a number cut short", '{"a":{"shape":[1.]}}'},
      {"deep nesting", '{"a":' .. ("["):rep(100000) .. "}"},
      {"a leading space", " {}"},
      {"words", '{"a":{"shape":[truth]}}'},
      {"nothing but a brace", "{"},
      {"a zero byte", "{}\0"},
    } do
      local name, header = case[1], case[2]
      header_case("JSON with " .. name, header, "", "byte ")
    end

    it("folders, missing files and things that are no files", function()
      fails(nn.load, folder, "is a directory")
      fails(nn.load, path "none", "no such file")
      fails(nn.load, "/dev/zero", "not a regular file")
      fails(nn.load, write("f", "") .. "/x", "not a directory")
      assert.matches("^load: path must be a string, got number", message_of(nn.load, 3))
      assert.matches("zero byte", message_of(nn.load, "a\0b"))
      assert.matches("no option 'copi'.*'copy'", message_of(nn.load, "x", {copi = true}))
    end)
  end)

  ---------------------------------------------------------------- saving that fails

  describe("nn.save", function()
    it("refuses what no file can hold, and leaves no file", function()
      local loop = {}
      loop.x = loop
      local x = nn.ones(1)
      for wanted, tensors in pairs {
        ["'a.b'"] = {["a.b"] = x, a = {b = x}},
        ["UTF%-8"] = {["\xff"] = x},
        ["__metadata__"] = {__metadata__ = x},
        ["'n' must be a tensor or a table of tensors, got a number"] = {n = 3},
        ["deep"] = loop,
        ["integers"] = {[true] = x},
        ["a tensor"] = x,
      } do
        assert.matches(wanted, message_of(nn.save, path "x", tensors))
      end
      for wanted, options in pairs {
        ["no option 'metta'"] = {metta = {}},
        ["meta 'x' must be"] = {meta = {x = {}}},
        ["keys of meta"] = {meta = {"x"}},
        ["must be a table of"] = {meta = 3}, ["UTF%-8"] = {meta = {x = "\xff"}},
      } do
        assert.matches(wanted, message_of(nn.save, path "x", {}, options))
      end
      assert.same({}, names(folder))
    end)

    it("refuses places where no file can be", function()
      local function save(to) nn.save(to, {x = nn.ones(2)}) end
      fails(save, folder, "is a directory")
      fails(save, path "none/x", "no such file")
      fails(save, write("f", "old") .. "/x", "not a directory")
      fails(save, "/dev/null", "not a regular file")
      fails(save, path(("x"):rep(300)), "too long")
      assert.matches("empty path", message_of(nn.save, "", {}))
      assert.same({"f"}, names(folder))
    end)

    it("says that a folder cannot be written", function()
      assert(os.execute("chmod 500 '" .. folder .. "'"))
      local probe = io.open(path "probe", "w")
      if probe then -- root may write anywhere
        probe:close()
        return
      end
      fails(function(to) nn.save(to, {x = nn.ones(2)}) end, path "x", "permission denied")
    end)

    it("keeps the old file when the new one cannot be written in full", function()
      nn.save(path "model", {x = nn.ones(2)})
      local before = helpers.slurp(path "model")
      local script = write("script.lua", ([[
        local nn = require "nnlua"
        print(pcall(nn.save, %q, {x = nn.zeros(1000, 1000)}))
        print(pcall(nn.data.npy_save, %q, nn.zeros(1000, 1000)))]]):format(path "model", path "new.npy"))
      -- files may grow to 64 blocks only, and the signal for it is ignored: what a full disk looks like
      local status, out, err = helpers.spawn {
        "sh", "-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$1\"", helpers.build .. "/nnlua", script,
      }
      assert.equal(0, status, err)
      assert.matches("^false\t[^\n]*model: byte %d+: cannot be written: the file would be larger", out)
      assert.matches("\nfalse\t", out)
      assert.equal(before, helpers.slurp(path "model"))
      assert.same({"model", "script.lua"}, names(folder))
    end)

    it("gives all back when memory is short, and leaves the old file", function()
      local native = require "nnlua.native"
      local x = nn.tensor({{1, 2, 3}, {4, 5, 6}}):permute(2, 1)
      nn.save(path "old", {x = nn.zeros(2)})
      local old = helpers.slurp(path "old")
      collectgarbage()
      local before = nn.memory().live
      local done
      for n = 1, 200 do
        native.fail_allocation(n, true)
        local ok, message = pcall(function()
          nn.save(path "new", {x = x}, {meta = {epoch = 1}})
          nn.load(path "new")
          npy_save(path "x.npy", x)
          nn.data.npy(path "x.npy")
          nn.data.idx(helpers.folder .. "../bindings/nnlua/data/digits-labels.idx")
          nn.save(path "old", {y = x})
        end)
        native.fail_allocation(0)
        collectgarbage()
        assert.equal(before, nn.memory().live)
        if ok then
          done = n
          break
        end
        assert.matches("memory", message)
        assert.equal(old, helpers.slurp(path "old"))
      end
      assert(done and done > 10)
      assert.same({"new", "old", "x.npy"}, names(folder))
    end)

    it("replaces a file, keeps its permissions, and follows links", function()
      nn.save(path "model", {x = nn.zeros(5000)})
      assert(os.execute(("chmod 640 '%s' && ln -s model '%s'"):format(path "model", path "link")))
      nn.save(path "link", {x = nn.ones(2)})
      assert.equal(2, nn.load(path "model").x:numel())
      assert.same({"link", "model"}, names(folder))
      local pipe = assert(io.popen("ls -l '" .. folder .. "'"))
      local listing = pipe:read "a"
      pipe:close()
      assert.matches("%-rw%-r%-%-%-%-%-[^\n]* model\n", listing)
      assert.matches("l[^\n]* link %-> model\n", listing)
    end)

    it("fails through a link that leads nowhere", function()
      assert(os.execute(("ln -s none/none '%s'"):format(path "link")))
      fails(function(to) nn.save(to, {}) end, path "link", "leads nowhere")
    end)

    it("writes relative paths", function()
      local script = write("script.lua", [[
        local nn = require "nnlua"
        nn.save("here", {x = nn.ones(2)})
        nn.save("./there", {x = nn.ones(2)})]])
      local nnlua = helpers.build .. "/nnlua"
      if nnlua:sub(1, 1) ~= "/" then nnlua = os.getenv "PWD" .. "/" .. nnlua end
      local status, _, err = helpers.spawn {"sh", "-c", "cd \"$0\" && exec \"$1\" \"$2\"", folder, nnlua, script}
      assert.equal(0, status, err)
      assert.same({"here", "script.lua", "there"}, names(folder))
    end)
  end)

  ---------------------------------------------------------------- IDX

  describe("nn.data.idx", function()
    local function idx(code, sizes, bytes)
      local head = string.pack(">BBBB", 0, 0, code, #sizes)
      for _, n in ipairs(sizes) do head = head .. string.pack(">I4", n) end
      return head .. bytes
    end
    local function gzip(name)
      assert(os.execute("gzip -n '" .. path(name) .. "'"))
      return path(name .. ".gz")
    end
    -- A build without zlib says so, and the specs of compressed files have nothing to test.
    local probe = os.tmpname()
    local file = assert(io.open(probe, "wb"))
    file:write "\x1f\x8b"
    file:close()
    local no_zlib = helpers.error_of(nn.data.idx, probe):find("no zlib", 1, true)
    os.remove(probe)
    local gzip_it = no_zlib and pending or it

    local cases = {
      {0x08, "u8", "BBB", {0, 128, 255}},
      {0x09, "i32", "bbb", {-128, 0, 127}},
      {0x0B, "i32", "hhh", {-32768, 258, 32767}},
      {0x0C, "i32", "i4i4i4", {-2147483648, 16909060, 2147483647}},
      {0x0D, "f32", "fff", {-0.5, 0.1, 3e38}},
      {0x0E, "f64", "ddd", {-0.5, 0.1, 1e300}},
    }
    for _, case in ipairs(cases) do
      local code, dtype, format, values = table.unpack(case)
      it(("reads type 0x%02x as %s"):format(code, dtype), function()
        local bytes = idx(code, {3, 1}, string.pack(">" .. format, table.unpack(values)))
        same(nn.data.idx(write("x", bytes)), values, {3, 1}, dtype)
        if not no_zlib then same(nn.data.idx(gzip "x"), values, {3, 1}, dtype) end
      end)
      it(("refuses type 0x%02x cut at any byte"):format(code), function()
        local bytes = idx(code, {3, 1}, string.pack(">" .. format, table.unpack(values)))
        for n = 0, #bytes - 1 do fails(nn.data.idx, write("cut", bytes:sub(1, n)), "byte ", "idx: ") end
        fails(nn.data.idx, write("long", bytes .. "\0"), "byte 4")
      end)
    end

    it("reads empty, 0-d and 8-dimensional files", function()
      same(nn.data.idx(write("e", idx(8, {0, 5}, ""))), {}, {0, 5}, "u8")
      same(nn.data.idx(write("z", idx(0x0C, {}, "\0\0\0\7"))), {7}, {}, "i32")
      same(nn.data.idx(write("d", idx(8, {1, 1, 1, 1, 1, 1, 1, 2}, "\1\2"))), {1, 2}, {1, 1, 1, 1, 1, 1, 1, 2}, "u8")
    end)

    it("refuses a wrong start, unknown types, many dimensions and huge sizes", function()
      fails(nn.data.idx, write("x", "\1\0\8\1\0\0\0\1x"), "byte 0", "not an IDX file")
      fails(nn.data.idx, write("x", idx(0x0A, {1}, "x")), "byte 2", "0x0a")
      fails(nn.data.idx, write("x", idx(8, {1, 1, 1, 1, 1, 1, 1, 1, 1}, "x")), "byte 3", "9 dimensions")
      fails(nn.data.idx, write("x", idx(8, {0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF}, "x")), "byte 4")
      fails(nn.data.idx, write("x", idx(8, {0xFFFFFFFF}, "x")), "byte 4", "1 bytes follow")
      fails(nn.data.idx, folder, "is a directory")
      fails(nn.data.idx, path "none", "no such file")
    end)

    gzip_it("refuses compressed files that are cut, damaged, too short or too long", function()
      write("x", idx(8, {400}, ("abcdefgh"):rep(50)))
      local bytes = helpers.slurp(gzip "x")
      for n = 2, #bytes - 1 do fails(nn.data.idx, write("cut", bytes:sub(1, n)), "byte ") end
      local middle = #bytes - 6 -- in the checksum
      fails(nn.data.idx, write("bad", bytes:sub(1, middle - 1) .. "\xAA" .. bytes:sub(middle + 1)), "byte ", "gzip")
      fails(nn.data.idx, write("tail", bytes .. "x"), "gzip")
      write("short", idx(8, {401}, ("abcdefgh"):rep(50)))
      fails(nn.data.idx, gzip "short", "1 bytes are missing")
      write("more", idx(8, {399}, ("abcdefgh"):rep(50)))
      fails(nn.data.idx, gzip "more", "go on")
      write("huge", idx(8, {0xFFFFFFFF}, ("abcdefgh"):rep(50)))
      fails(nn.data.idx, gzip "huge", "at most")
    end)

    gzip_it("reads compressed files of several members", function()
      local bytes = idx(8, {6}, "abcdef")
      write("a", bytes:sub(1, 9))
      write("b", bytes:sub(10))
      local both = helpers.slurp(gzip "a") .. helpers.slurp(gzip "b")
      same(nn.data.idx(write("both", both)), {97, 98, 99, 100, 101, 102}, {6}, "u8")
    end)

    it("reads the digits that come with nnlua", function()
      -- sums, counts and the first image as scikit-learn's load_digits gives them
      local place = helpers.folder .. "../bindings/nnlua/data/digits-"
      local images, labels = nn.data.idx(place .. "images.idx"), nn.data.idx(place .. "labels.idx")
      assert.equal("1797x8x8", helpers.shape_text(images.shape))
      assert.equal("u8", images.dtype)
      assert.equal(561718, images:to("i64"):sum():item())
      same(images[1][1], {0, 0, 5, 13, 9, 1, 0, 0}, {8}, "u8")
      local counts = {}
      for _, label in ipairs(labels:totable()) do counts[label + 1] = (counts[label + 1] or 0) + 1 end
      assert.same({178, 182, 177, 183, 181, 182, 181, 179, 174, 180}, counts)
    end)
  end)

  ---------------------------------------------------------------- npy

  describe("nn.data.npy", function()
    local function npy(header, bytes) return "\x93NUMPY\1\0" .. string.pack("<s2", header) .. (bytes or "") end
    local grid = {-1, 0, 1, 2, 3, 4}
    local halves = {-0.5, 0, 0.5, 1, 1.5, 2}

    for _, case in ipairs {
      {"f4", {halves, {2, 3}, "f32"}},
      {"f4-fortran", {halves, {2, 3}, "f32"}},
      {"f8-big", {halves, {2, 3}, "f64"}},
      {"f2", {{1, -2, 0.5, 65504, 2.0 ^ -24, math.huge}, {6}, "f32"}},
      {"i1", {grid, {2, 3}, "i32"}},
      {"u2-big", {{0, 1, 65535}, {3}, "i32"}},
      {"u4", {{0, 4294967295}, {2}, "i64"}},
      {"i8-fortran", {{-1, -10, 0, 0, 1, 10, 2, 20, 3, 30, 4, 40}, {2, 3, 2}, "i64"}},
      {"bool", {{false, false, true, true, true, true}, {2, 3}, "bool"}},
      {"scalar", {{7}, {}, "i32"}},
      {"empty", {{}, {0, 3}, "u8"}},
      {"v2", {grid, {2, 3}, "i32"}},
      {"v3", {grid, {2, 3}, "i32"}},
    } do
      local name, wanted = case[1], case[2]
      it("reads NumPy's " .. name .. ".npy", function()
        same(nn.data.npy(golden .. name .. ".npy"), table.unpack(wanted))
      end)
    end

    it("names what it cannot read, and runs no code", function()
      fails(nn.data.npy, golden .. "object.npy", "npy: ", "byte 20", "Python objects")
      fails(nn.data.npy, golden .. "record.npy", "records")
      fails(nn.data.npy, golden .. "u8.npy", "'<u8'")
    end)

    it("reads back what it writes", function()
      local x = nn.arange(6):reshape(2, 3)
      for _, dtype in ipairs {"f32", "f64", "i32", "i64", "u8", "bool"} do
        local y = x:to(dtype)
        for _, t in ipairs {y, y:t(), y:select(1, 2), nn.zeros(0, 3, {dtype = dtype}), y[{1, 2}]} do
          npy_save(path "x.npy", t)
          helpers.assert_same(dtype, nn.data.npy(path "x.npy"), t)
        end
      end
      assert.equal(0, (#helpers.slurp(path "x.npy") - 1) % 64)
      assert.same({"x.npy"}, names(folder))
    end)

    it("refuses a file cut at any byte or too long", function()
      local bytes = helpers.slurp(golden .. "v2.npy")
      for n = 0, #bytes - 1 do fails(nn.data.npy, write("cut", bytes:sub(1, n)), "byte ") end
      fails(nn.data.npy, write("long", bytes .. "x"), "byte 128")
    end)

    it("reads shapes as Python writes them", function()
      local function shape(text, n)
        return write("s", npy("{'descr':'|u1','fortran_order':False,'shape':" .. text .. "}", ("x"):rep(n)))
      end
      assert.equal("4", helpers.shape_text(nn.data.npy(shape("(4,)", 4)).shape))
      assert.equal("2x2", helpers.shape_text(nn.data.npy(shape("(2, 2,)", 4)).shape))
      assert.equal("2x3", helpers.shape_text(nn.data.npy(shape("(2L, 3L)", 6)).shape))
      assert.equal("0-d", helpers.shape_text(nn.data.npy(shape("()", 1)).shape))
      for _, bad in ipairs {
        "(4)", "4", "(,)", "(-4,)", "(2 2)", "(4,,)", "(99999999999999999999,)", "(1,1,1,1,1,1,1,1,4)", "(4.0,)", "(4",
      } do
        fails(nn.data.npy, shape(bad, 4), "byte ")
      end
      fails(nn.data.npy, shape("(9223372036854775807, 2)", 4), "byte ")
      fails(nn.data.npy, shape("(9223372036854775807, 2, 0)", 0), "byte ")
    end)

    for _, case in ipairs {
      {"no dictionary", "[]"},
      {"a missing field", "{'descr': '|u1', 'shape': (1,)}"},
      {"a field twice", "{'descr': '|u1', 'descr': '|u1'}"},
      {"an unknown field", "{'describe': '|u1'}"},
      {"an expression", "{'descr': __import__('os'), 'fortran_order': False, 'shape': (1,)}"},
      {"an escape", "{'descr': '\\x7cu1', 'fortran_order': False, 'shape': (1,)}"},
      {"an open string", "{'descr: 1"},
      {"a number for a truth value", "{'descr': '|u1', 'fortran_order': 0, 'shape': (1,)}"},
      {"nothing", ""},
      {"text behind it", "{'descr': '|u1', 'fortran_order': False, 'shape': (1,)} x"},
      {"an order without meaning", "{'descr': '|i4', 'fortran_order': False, 'shape': ()}"},
    } do
      local name, header = case[1], case[2]
      it("refuses a header with " .. name, function() fails(nn.data.npy, write("x", npy(header, "x")), "byte ") end)
    end

    it("refuses another start, other versions, long headers and bools that are none", function()
      fails(nn.data.npy, write("x", "\x93NUMPX\1\0" .. string.pack("<s2", "{}")), "not an npy file")
      fails(nn.data.npy, write("x", "\x93NUMPY\4\0" .. string.pack("<s2", "{}")), "version 4.0")
      fails(nn.data.npy, write("x", "\x93NUMPY\2\0" .. string.pack("<I4", 0xFFFFFFFF)), "header of 4294967295 bytes")
      local header = "{'descr': '|b1', 'fortran_order': False, 'shape': (2,)}"
      fails(nn.data.npy, write("x", npy(header, "\1\2")), ("byte %d"):format(11 + #header), "bool")
    end)
  end)
end)
