-- A program, run by ops_spec.lua in other processes: calls every op on the same inputs and saves all results and
-- gradients, so that runs with other threads and instruction sets can be compared.
--   nnlua spec/all_ops.lua OUT.safetensors [large]
package.path = "./?.lua;" .. package.path
local helpers = require "spec.helpers"
local samples = require "spec.samples"
local nn = helpers.nn

local path, part = arg[1], arg[2]
local results = {}

-- Of large f32 results the f64 sums of rows and columns are kept, in which one changed bit shows.
local function keep(name, values)
  for i, x in ipairs(values) do
    local key = ("%s.%02d"):format(name, i)
    if x:numel() > 5000 and x:dim() > 1 and x.dtype ~= "f64" then
      local wide = x.dtype == "f32" and x:to "f64" or x
      results[key .. ".columns"], results[key .. ".rows"] = wide:sum(1):contiguous(), wide:sum(-1):contiguous()
    else
      results[key] = x:contiguous()
    end
  end
end

-- Sizes at which threads share the work, with odd ends.
local function large(spec)
  local shape = {}
  for i, size in ipairs(spec.shape) do shape[i] = size == 3 and 253 or size == 4 and 301 or size end
  return shape
end

local failures = {}
for _, record in ipairs(nn.ops()) do
  local f = samples.op(record)
  if f and not samples.undefined[record.name] then
    for k, case in ipairs(samples.cases(record)) do
      for _, dtype in ipairs {"f32", "f64"} do
        local scaled = part == "large"
        if not scaled or dtype == "f32" and (not record.sample or record.traits.elementwise) then
          local ok, values = pcall(samples.everything, record, f, case, dtype, scaled and {shape = large} or nil)
          if ok then
            keep(("%s.%d.%s"):format(record.name, k, dtype), values)
          elseif not scaled and not case.guess then
            failures[#failures + 1] = record.name .. ": " .. tostring(values)
          end
        end
      end
    end
  end
end

if part == "large" then
  local count = 0
  local function draw(shape, more)
    count = count + 1
    local spec = {shape = shape, lo = -2, hi = 2, avoid = {}}
    for k, v in pairs(more or {}) do spec[k] = v end
    local x = samples.draw(spec, "f32", count)
    if helpers.is_float(x) then x.requires_grad = true end
    return x
  end
  local function try(name, f, ...)
    local arguments = table.pack(...)
    arguments.tensors = {}
    for i = 1, arguments.n do
      if nn.is_tensor(arguments[i]) then arguments.tensors[#arguments.tensors + 1] = {x = arguments[i]} end
    end
    local outs = samples.call({traits = {}}, f, arguments)
    local grads = samples.gradients(outs, arguments)
    for i = 1, #grads do outs[#outs + 1] = grads[i] end
    for i = 1, #outs do outs[i] = outs[i]:detach() end
    keep("large." .. name, outs)
  end
  local function op(name) return assert(helpers.op(name), "there is no op " .. name) end
  try("matmul", op "matmul", draw {257, 131}, draw {131, 203})
  try("matmul.batch", op "matmul", draw {6, 65, 70}, draw {70, 33})
  try("matmul.skinny", op "matmul", draw {3, 2003}, draw {2003, 5})
  try("matmul.tall", op "matmul", draw {1501, 20}, draw {20, 7})
  try("mv", op "mv", draw {501, 301}, draw {301})
  try("linear", op "linear", draw {129, 200}, draw {77, 200}, draw {77})
  try("sum", op "sum", draw {300, 1001})
  try("sum.1", op "sum", draw {300, 1001}, 1)
  try("sum.2", op "sum", draw {300, 1001}, 2)
  try("mean.transposed", op "mean", draw({300, 1001}):t():detach(), 2)
  try("var", op "var", draw {300, 1001}, 1)
  try("norm", op "norm", draw {300, 1001})
  try("logsumexp", op "logsumexp", draw {300, 1001}, 1)
  try("cumsum", op "cumsum", draw {300, 1001}, 2)
  try("softmax", op "softmax", draw {300, 1001}, 2)
  try("log_softmax", op "log_softmax", draw {300, 1001}, 1)
  try("max", op "max", draw {300, 1001}, 1)
  try("sort", op "sort", draw {50, 1001}, 2)
  try("cross_entropy", op "cross_entropy", draw {2000, 31}, draw({2000}, {ints = 31}))
  try("mse_loss", op "mse_loss", draw {500, 301}, draw {500, 301})
  try("embedding", op "embedding", draw({3000}, {ints = 400}), draw {400, 33})
  try("index_select", op "index_select", draw {400, 33}, 1, draw({3000}, {ints = 400}))
  try("scatter_add", op "scatter_add", draw {100, 500}, 2, draw({100, 900}, {ints = 500}), draw {100, 900})
  try("cat", op "cat", {draw {300, 301}, draw {300, 100}}, 2)
  try("conv1d", op "conv1d", draw {7, 5, 301}, draw {19, 5, 7}, draw {19}, 2, 3)
  try("conv2d", op "conv2d", draw {9, 16, 17, 19}, draw {33, 16, 3, 3}, draw {33}, {padding = 1})
  try("conv2d.stride", op "conv2d", draw {9, 16, 17, 19}, draw {33, 16, 3, 3}, draw {33}, {padding = 1, stride = 2})
  try("conv2d.few", op "conv2d", draw {33, 1, 28, 28}, draw {6, 1, 5, 5}, draw {6}, {padding = 2})
  try("conv2d.one", op "conv2d", draw {2, 40, 31, 30}, draw {50, 40, 1, 1}, draw {50})
  try("conv2d.groups", op "conv2d", draw {9, 12, 20, 20}, draw {24, 4, 3, 3}, draw {24}, {groups = 3})
  try("conv2d.depthwise", op "conv2d", draw {9, 35, 30, 30}, draw {35, 1, 3, 3}, draw {35}, {groups = 35, stride = 2})
  try("conv2d.wide", op "conv2d", draw {2, 130, 9, 9}, draw {140, 130, 3, 3}, draw {140}, {dilation = 2, padding = 2})
  try("conv3d", op "conv3d", draw {2, 8, 9, 10, 11}, draw {16, 8, 3, 3, 3}, draw {16}, {padding = 1})
  -- rows are shared out in the first two, columns in the others
  try("lstm_layer", op "lstm_layer", draw {9, 37, 40}, draw {260, 40}, draw {260, 65}, draw {260}, draw {260})
  try("gru_layer", op "gru_layer", draw {9, 37, 40}, draw {195, 40}, draw {195, 65}, draw {195}, draw {195})
  try("lstm_layer.wide", op "lstm_layer", draw {4, 5, 40}, draw({1320, 40}), draw({1320, 330}, {lo = -0.1, hi = 0.1}))
  try("gru_layer.wide", op "gru_layer", draw {4, 33, 40}, draw({1200, 40}), draw({1200, 400}, {lo = -0.1, hi = 0.1}))
  try("rnn_layer.wide", op "rnn_layer", draw {4, 33, 40}, draw({650, 40}), draw({650, 650}, {lo = -0.1, hi = 0.1}))
  try("transposed copy", function(x) return x:t():contiguous() end, draw {500, 301})
  try("broadcast add", op "add", draw {300, 1, 31}, draw {40, 31})
  try("layer_norm", op "layer_norm", draw {700, 301}, {301}, draw {301}, draw {301})
  try("rms_norm", op "rms_norm", draw {700, 301}, {301}, draw {301})
  try("group_norm", op "group_norm", draw {5, 12, 40, 21}, 3, draw {12}, draw {12})
  local attend = op "scaled_dot_product_attention"
  try("attention", attend, draw {2, 3, 300, 32}, draw {2, 3, 300, 32}, draw {2, 3, 300, 32}, {is_causal = true})
  try("attention.grouped", attend, draw {9, 70, 20}, draw {3, 301, 20}, draw {3, 301, 33}, {enable_gqa = true})
  try("attention.one", function(...)
    nn.manual_seed(3)
    return (attend(...))
  end, draw {500, 20}, draw {600, 20}, draw {600, 20}, {dropout_p = 0.2})
end

if #failures > 0 then io.stderr:write(table.concat(failures, "\n"), "\n") end
nn.save(path, results)
