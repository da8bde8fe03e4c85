--- Pooling layers.  They have no parameters: the fields are the op's arguments.
local define = require "nnlua.define"
local native = require "nnlua.native"

local pooling = {}

local shapes = {
  "batch x channels x length", "batch x channels x height x width", "batch x channels x depth x height x width",
}

local function shown(value)
  return type(value) == "table" and "{" .. table.concat(value, ", ") .. "}" or tostring(value)
end

-- Calls make(dims, "1d", the shape of inputs in words, "[1]") for one to three dimensions.
local function each_dimension(make)
  for dims, shape in ipairs(shapes) do make(dims, dims .. "d", shape, ("[%d]"):format(dims)) end
end

-- Fields from the constructor's arguments; print shows those named by `always` and those that are not the default.
local function keep_arguments(class, read, params, always)
  function class:init(...)
    local values = {read(...)}
    for i, param in ipairs(params) do self[param.name] = values[i] end
    if self.kernel_size ~= nil and self.stride == nil then self.stride = self.kernel_size end
  end

  function class:extra_repr()
    local parts = {}
    for _, param in ipairs(params) do
      local name, value = param.name, self[param.name]
      if always:find(name, 1, true) or value ~= param.default then parts[#parts + 1] = name .. "=" .. shown(value) end
    end
    return table.concat(parts, ", ")
  end

  function class:flops(output) return output:numel() end -- luacheck: ignore self
end

-- A class whose forward hands the fields `order` on to the op in their order.
local function layer(name, op, signature, order, always, doc, example)
  local class, read, params = define(name, signature, doc, example)
  keep_arguments(class, read, params, always)
  local f, a, b, c, d, e, g = native[op], table.unpack(order)
  function class:forward(input)
    return f(input, self[a], b and self[b], c and self[c], d and self[d], e and self[e], g and self[g])
  end
  pooling[name] = class
end

each_dimension(function(dims, suffix, shape, count)
  local example = ("(nn.randn(8, 3%s))"):format((", 16"):rep(dims))
  local windows = ("kernel_size:size%s, stride:size%s?, padding:size%s=0, "):format(count, count, count)
  layer("MaxPool" .. suffix, "max_pool" .. suffix,
    windows .. ("dilation:size%s=1, return_indices:flag=false, ceil_mode:flag=false"):format(count),
    {"kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"},
    "kernel_size stride padding dilation ceil_mode",
    "The largest element of every window over " .. shape .. "; stride is kernel_size by default.  With return_indices "
    .. "the positions of the maxima within their channel are a second result.",
    ("nn.MaxPool%s(2)%s"):format(suffix, example))
  layer("AvgPool" .. suffix, "avg_pool" .. suffix,
    windows .. "ceil_mode:flag=false, count_include_pad:flag=true" .. (dims > 1 and ", divisor_override:int?" or ""),
    {"kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", dims > 1 and "divisor_override" or nil},
    "kernel_size stride padding",
    "The mean of every window over " .. shape .. "; stride is kernel_size by default.  Padding counts as 0, or not at "
    .. "all without count_include_pad.", ("nn.AvgPool%s(2)%s"):format(suffix, example))
  layer("AdaptiveMaxPool" .. suffix, "adaptive_max_pool" .. suffix,
    ("output_size:size%s, return_indices:flag=false"):format(count), {"output_size", "return_indices"}, "output_size",
    "The largest element of every window over " .. shape .. ", where output_size windows share the places out evenly.",
    ("nn.AdaptiveMaxPool%s(4)%s"):format(suffix, example))
  layer("AdaptiveAvgPool" .. suffix, "adaptive_avg_pool" .. suffix,
    ("output_size:size%s"):format(count), {"output_size"}, "output_size",
    "The mean of every window over " .. shape .. ", where output_size windows share the places out evenly.",
    ("nn.AdaptiveAvgPool%s(1)%s"):format(suffix, example))
end)

return pooling
