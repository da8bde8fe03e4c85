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

-- Fields from the constructor's arguments, shown by print in their order.
local function keep_arguments(class, read, params)
  function class:init(...)
    local values = {read(...)}
    for i, param in ipairs(params) do self[param.name] = values[i] end
    if self.stride == nil and self.kernel_size ~= nil then self.stride = self.kernel_size end
  end

  function class:extra_repr()
    local parts = {}
    for _, param in ipairs(params) do
      local value = self[param.name]
      local plain = value == false or value == nil or param.name == "count_include_pad"
      if param.name == "ceil_mode" or not plain then parts[#parts + 1] = param.name .. "=" .. shown(value) end
    end
    return table.concat(parts, ", ")
  end

  function class:flops(output) return output:numel() end -- luacheck: ignore self
end

each_dimension(function(dims, suffix, shape, count)
  local op = native["max_pool" .. suffix]
  local class, read, params = define("MaxPool" .. suffix,
    ("kernel_size:size%s, stride:size%s?, padding:size%s=0, dilation:size%s=1, return_indices:flag=false, "
      .. "ceil_mode:flag=false"):format(count, count, count, count),
    "The largest element of every window over " .. shape .. "; stride is kernel_size by default.  With return_indices "
    .. "the positions of the maxima within their channel are a second result.",
    ("nn.MaxPool%s(2)(nn.randn(8, 3%s))"):format(suffix, (", 16"):rep(dims)))
  keep_arguments(class, read, params)
  function class:forward(input)
    return op(input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices)
  end
  pooling["MaxPool" .. suffix] = class
end)

return pooling
