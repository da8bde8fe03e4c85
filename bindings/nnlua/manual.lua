--- What help and annotations say of everything that is neither an op nor a class of the library: functions of the
--- binding, methods and fields of tensors, operators, subscripts.
---
--- An entry is {name, call, doc, example, params, returns}; params are `name type` in LuaCATS, separated by semicolons.
local manual = {}

manual.functions = {
  {"tensor", "nn.tensor(data, [dtype], requires_grad = false)",
    "A tensor of a number, a boolean or a (nested) list of them: f32, bool for booleans, or dtype (f32, f64, "
      .. "i64, i32, u8, "
      .. "bool).", 'nn.tensor({{1, 2}, {3, 4}}, "f64")',
    "data any; dtype nnlua.dtype|{dtype: nnlua.dtype?, requires_grad: boolean?}?; requires_grad boolean?",
    "nnlua.Tensor"},
  {"is_tensor", "nn.is_tensor(value)", "Whether the value is a tensor.", "nn.is_tensor(nn.zeros(2))", "value any",
    "boolean"},
  {"grad",
    "nn.grad(output, {inputs}, [grad_outputs], retain_graph = false, create_graph = false, allow_unused = false)",
    "The gradient of output with respect to each input, a result for each; .grad stays as it is.  create_graph: the "
      .. "results can be differentiated again.  allow_unused: nil instead of an error for an input that output "
        .. "does not "
      .. "depend on.  grad_outputs: what flows into an output of more than one element.",
    "local x = nn.tensor({2, 3}, {requires_grad = true}); return nn.grad((x ^ 3):sum(), {x})",
    "output nnlua.Tensor; inputs nnlua.Tensor|nnlua.Tensor[]; grad_outputs nnlua.Tensor|{grad_outputs: nnlua.Tensor?, "
      .. "retain_graph: boolean?, create_graph: boolean?, allow_unused: boolean?}?; retain_graph boolean?; "
      .. "create_graph boolean?; allow_unused boolean?", "nnlua.Tensor ..."},
  {"no_grad", "nn.no_grad(f, ...)",
    "Calls f(...) without recording for gradients, and returns its results.  The mode comes back on error, too; "
      .. "f may not "
      .. "yield.", "local w = nn.ones(2, {requires_grad = true}); return nn.no_grad(function() return w * 2 end)",
    "f function; ... any", "any ..."},
  {"enable_grad", "nn.enable_grad(f, ...)", "Calls f(...) with recording for gradients, within no_grad.", nil,
    "f function; ... any", "any ..."},
  {"checkpoint", "nn.checkpoint(f, ...)",
    "Calls f(...) and returns its results without keeping what lies between them and the arguments; backward calls "
      .. "f(...) again, with the same random numbers, when it needs the values.  Less memory for more time; the "
      .. "gradients are the same.  f must do the same each time and change nothing outside; running statistics "
      .. "count once.  arXiv:1604.06174.", "local x = nn.ones(2, {requires_grad = true}); "
      .. "return nn.checkpoint(function(y) return (y * 2):exp() end, x)", "f function; ... any", "any ..."},
  {"is_grad_enabled", "nn.is_grad_enabled()", "Whether ops are recorded for gradients.", "nn.is_grad_enabled()", "",
    "boolean"},
  {"detect_anomaly", "nn.detect_anomaly(on)",
    "From now on the first NaN or infinity stops with the op and the line of the script that made it.", nil,
      "on boolean", ""},
  {"profile", "nn.profile(f, ...)",
    "Calls f(...) and returns a list of {op, calls, seconds, bytes}, the most expensive op first.",
    "nn.profile(function() nn.randn(64, 64):matmul(nn.randn(64, 64)) end)[1].op", "f function; ... any",
    "{op: string, calls: integer, seconds: number, bytes: integer}[]"},
  {"memory", 'nn.memory([what])',
    'Bytes for tensors: {live, held (with what is kept for reuse), peak (of held), peak_live, limit, calls (of the '
      .. 'allocator), tensors}.  "reset" starts new peaks, "trim" gives back what is kept.', "nn.memory().live >= 0",
        'what "reset"|"trim"|nil',
    "{live: integer, held: integer, peak: integer, peak_live: integer, limit: integer, calls: integer, "
      .. "tensors: integer}"},
  {"set_memory_limit", "nn.set_memory_limit(bytes)", "The most that tensors may take; 0 is without a limit.", nil,
    "bytes integer", ""},
  {"manual_seed", "nn.manual_seed(seed)", "Starts the random numbers anew: the same seed gives the same numbers.",
    "nn.manual_seed(42)", "seed integer", ""},
  {"rng_state", "nn.rng_state()", "The place in the stream of random numbers; nn.set_rng_state(seed, call) goes "
    .. "back there.",
    "local seed, call = nn.rng_state()", "", "integer seed, integer call"},
  {"set_rng_state", "nn.set_rng_state(seed, call)", "Goes to a place in the stream of random numbers.",
    "nn.set_rng_state(nn.rng_state())", "seed integer; call integer", ""},
  {"set_threads", "nn.set_threads(n)", "How many threads work from now on.  Results do not depend on it.",
    "nn.set_threads(1)", "n integer", ""},
  {"threads", "nn.threads()", "How many threads work.", "nn.threads()", "", "integer"},
  {"clock", "nn.clock()", "Seconds since some moment, never going back: differences are times.", "nn.clock()", "",
    "number"},
  {"info", "nn.info()", "Version, instruction set, threads, optional parts, as a table; nnlua info prints them.",
    "nn.info().version", "", "table<string, any>"},
  {"ops", "nn.ops()", "The records of all ops: names, signatures, texts.  This help is made from them.",
    "#nn.ops() > 100", "", "table[]"},
  {"save", "nn.save(path, tensors, {meta = {...}})",
    "Writes a (nested) table of tensors to a safetensors file, whole or not at all; names of nested tables are "
      .. "joined "
      .. "with dots.  meta: strings, numbers and booleans that go along.",
    'nn.save("model.safetensors", net:state_dict(), {meta = {epoch = 3}})',
    "path string; tensors table<string, any>; options {meta: table<string, any>?}?", ""},
  {"load", "nn.load(path, {copy = false})",
    "The tensors of a safetensors file by name, and its meta values.  The file is read "
      .. "as it is needed; copy: at once, so that the file may change afterwards.",
    'local tensors, meta = nn.load("model.safetensors")', "path string; options {copy: boolean?}?",
    "table<string, nnlua.Tensor> tensors, table<string, any> meta"},
  {"data.idx", "nn.data.idx(path)", "The tensor of an IDX file, plain or packed by gzip, with the numbers as "
    .. "they are.",
    'nn.data.idx("train-labels-idx1-ubyte.gz")', "path string", "nnlua.Tensor"},
  {"data.npy", "nn.data.npy(path)", "The tensor of a NumPy file.", 'nn.data.npy("x.npy")', "path string",
    "nnlua.Tensor"},
  {"npy_save", "nn.npy_save(path, tensor)", "Writes a NumPy file.", 'nn.npy_save("x.npy", x)',
    "path string; tensor nnlua.Tensor", ""},
  {"help", "nn.help([what])", 'Prints this: nn.help("softmax"), nn.help(nn.Linear); nn.help() lists what there is.',
    nil,
    "what any", ""},
}

manual.methods = {
  {"backward", "x:backward([gradient], retain_graph = false, create_graph = false)",
    "Adds the gradients of x, of one element, to .grad of all leaves that require one.  gradient: what flows "
      .. "into an x "
      .. "of more elements.  retain_graph: the graph can be gone through again.",
    "local w = nn.tensor({1, 2}, {requires_grad = true}); (w ^ 2):sum():backward(); return w.grad",
    "gradient nnlua.Tensor|{gradient: nnlua.Tensor?, retain_graph: boolean?, create_graph: boolean?}?; "
      .. "retain_graph boolean?; create_graph boolean?", ""},
  {"detach", "x:detach()", "The same values in the same memory, without their history.", "nn.ones(2):detach()", "",
    "nnlua.Tensor"},
  {"requires_grad_", "x:requires_grad_(on = true)", "Asks for gradients of a leaf, and returns it.",
    "nn.ones(2):requires_grad_()", "on boolean?", "nnlua.Tensor"},
  {"register_hook", "x:register_hook(f)",
    "f(gradient) is called with the gradient of x during backward; what it returns takes its place.  handle:remove() "
      .. "takes the hook away, handle being the result.", nil, "f fun(gradient: nnlua.Tensor): nnlua.Tensor?",
    "{remove: fun(self: table)}"},
  {"item", "x:item()", "The only element as a Lua float, integer or boolean.", "nn.tensor({7}):item()", "",
    "number|boolean"},
  {"totable", "x:totable()", "The elements as nested lists.", "#nn.ones(2, 3):totable()", "", "any"},
  {"equal", "x:equal(other)", "Whether shapes and all elements are equal; x:eq(other) compares elementwise.",
    "nn.ones(2):equal(nn.ones(2))", "other nnlua.Tensor", "boolean"},
  {"size", "x:size([dim])", "The size of a dimension (from 1, or -1 backwards), or all of them.",
    "nn.ones(2, 3):size(-1)",
    "dim integer?", "integer"},
  {"dim", "x:dim()", "The number of dimensions.", "nn.ones(2, 3):dim()", "", "integer"},
  {"numel", "x:numel()", "The number of elements.", "nn.ones(2, 3):numel()", "", "integer"},
  {"stride", "x:stride()", "How many elements apart neighbours along each dimension lie.", "nn.ones(2, 3):stride()",
    "",
    "integer[]"},
  {"is_contiguous", "x:is_contiguous()", "Whether the elements lie in memory in their order.",
    "nn.ones(2, 3):t():is_contiguous()", "", "boolean"},
  {"version", "x:version()", "How often the memory was changed in place.", "nn.ones(2):version()", "", "integer"},
  {"free", "x:free()",
    "Gives the memory back at once; use after that is an error.  local x <close> = ... does it at the end of a "
      .. "block.",
    "nn.ones(1000, 1000):free()", "", ""},
}

manual.fields = {
  {"shape", "x.shape", "The sizes as a fresh list; == compares values, tostring gives 2x3.", "nn.ones(2, 3).shape",
    "", "integer[]"},
  {"dtype", "x.dtype", "The elements' type: f32, f64, i64, i32, u8 or bool.", "nn.ones(2).dtype", "", "nnlua.dtype"},
  {"grad", "x.grad", "The gradient that backward() gathered, or nil; it can be set.", "nn.ones(2).grad", "",
    "nnlua.Tensor?"},
  {"requires_grad", "x.requires_grad", "Whether gradients flow to or through the tensor; it can be set on leaves.",
    "nn.ones(2).requires_grad", "", "boolean"},
  {"is_leaf", "x.is_leaf", "Whether the tensor was made by no recorded op.", "nn.ones(2).is_leaf", "", "boolean"},
  {"ndim", "x.ndim", "The number of dimensions.", "nn.ones(2, 3).ndim", "", "integer"},
}

manual.topics = {
  {"subscripts", "x[...]",
    "x[1] is a view of row 1, x[-1] of the last one.  x[{2, 3}] is one element, x[{{1, 2}, {}}] rows 1 to 2 with "
      .. "every "
      .. "column: an entry a dimension, an integer (drops it), a range {first, last [, step]} with both ends "
        .. "included, {} "
      .. "for all, or an index tensor; missing entries are all.  x[mask] selects by a bool tensor, x[places] "
        .. "gathers along "
      .. "dimension 1.  x[...] = value writes through, broadcasting.", "nn.arange(1, 6):reshape(2, 3)[{{}, {2, 3}}]"},
  {"operators", "x + y, x - y, x * y, x / y, x ^ y, -x, x // y, x % y, x & y, x | y, ~x",
    "Elementwise with broadcasting; a number may stand on either side.  == is identity (x:eq(y) compares), < and "
      .. "<= are "
      .. "for one element.  #x is the size of dimension 1.", "2 * nn.tensor({1, 2}) ^ 2 - 1"},
}

--- Calls f(entry, kind) for all; entries get their fields by name.
---@param f fun(entry: table, kind: string)
function manual.each(f)
  for _, kind in ipairs {"functions", "methods", "fields", "topics"} do
    for _, e in ipairs(manual[kind]) do
      f({name = e[1], call = e[2], doc = e[3], example = e[4] or nil, params = e[5] or "", returns = e[6] or ""},
        kind)
    end
  end
end

return manual
