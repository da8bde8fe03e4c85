--- Recurrent layers, stacked and in both directions, and the cells that make one step.
local args = require "nnlua.args"
local define = require "nnlua.define"
local init = require "nnlua.initializers"
local Module = require "nnlua.module"
local native = require "nnlua.native"

local recurrent = {}

local raise, Parameter = native.raise, Module.Parameter

-- Arguments of the constructors that all kinds have, in torch's order.
local sizes = "input_size:size, hidden_size:size, num_layers:size=1, "
local options = "bias:flag=true, batch_first:flag=false, dropout:num=0.0, bidirectional:flag=false"

local shapes = "Inputs are steps x batch x input_size, batch x steps x input_size with batch_first, or steps x "
  .. "input_size without a batch; results have hidden_size features, or twice as many if bidirectional.  "
local states = "num_layers (times 2 if bidirectional) x batch x hidden_size; nil is zeros.  "
local start = "Layers after the first read the results of the one before, through dropout in training.  All weights "
  .. "start uniform in [-k, k), k = 1 / sqrt(hidden_size)."

---------------------------------------------------------------- parameters

local function check_sizes(self)
  for _, name in ipairs {"input_size", "hidden_size", "num_layers"} do
    if self[name] == 0 then raise(("%s: %s must be 1 or more, got 0"):format(self.__name, name)) end
  end
end

-- The weights of one layer in one direction, or of a cell: named with what tells them apart behind.
local function add_weights(self, gates, inputs, ending)
  local hidden, projected = self.hidden_size, self.proj_size or 0
  local bound = 1 / math.sqrt(hidden)
  local function add(name, ...) self[name .. ending] = Parameter(init.uniform_(native.empty(...), -bound, bound)) end
  add("weight_ih", gates * hidden, inputs)
  add("weight_hh", gates * hidden, projected > 0 and projected or hidden)
  if self.bias then
    add("bias_ih", gates * hidden)
    add("bias_hh", gates * hidden)
  end
  if projected > 0 then add("weight_hr", projected, hidden) end
end

local function weights_of(self, ending)
  return self["weight_ih" .. ending], self["weight_hh" .. ending], rawget(self, "bias_ih" .. ending),
    rawget(self, "bias_hh" .. ending)
end

-- What stands behind the names: "_l0", "_l0_reverse", "_l1" ...
local function ending_of(layer, direction) return ("_l%d%s"):format(layer - 1, direction == 2 and "_reverse" or "") end

local function build(self, gates)
  check_sizes(self)
  if not (self.dropout >= 0 and self.dropout <= 1) then
    raise(("%s: dropout must be in 0 .. 1, got %s"):format(self.__name, self.dropout))
  end
  self.directions = self.bidirectional and 2 or 1
  self.state_size = self.proj_size and self.proj_size > 0 and self.proj_size or self.hidden_size
  self.endings = {}
  for layer = 1, self.num_layers do
    for direction = 1, self.directions do
      local ending = ending_of(layer, direction)
      self.endings[#self.endings + 1] = ending
      add_weights(self, gates, layer == 1 and self.input_size or self.state_size * self.directions, ending)
    end
  end
end

---------------------------------------------------------------- inputs

local function check_tensor(self, name, value)
  if not native.is_tensor(value) then
    raise(("%s: %s must be a tensor, got %s"):format(self.__name, name, args.describe(value)))
  end
end

local function check_features(self, input)
  if input:size(-1) ~= self.input_size then
    raise(("%s: input (%s) has %d features, but input_size is %d"):format(self.__name, tostring(input.shape),
      input:size(-1), self.input_size))
  end
end

-- input as steps x batch x features.
local function steps_first(self, input)
  check_tensor(self, "input", input)
  local dims = input:dim()
  if dims ~= 2 and dims ~= 3 then
    raise(("%s: input (%s) must have 3 dimensions, or 2 without a batch"):format(self.__name, tostring(input.shape)))
  end
  check_features(self, input)
  if dims == 2 then return input:unsqueeze(2) end
  return self.batch_first and input:transpose(1, 2) or input
end

-- One state of all layers as a list, one for each layer and direction: batch x size.
local function each_state(self, name, value, input, size)
  if value == nil then return {} end
  check_tensor(self, name, value)
  local batched = input:dim() == 3
  local count, batch = #self.endings, batched and input:size(self.batch_first and 1 or 2)
  local fits = value:dim() == input:dim() and value:size(1) == count and value:size(-1) == size
    and (not batched or value:size(2) == batch)
  if not fits then
    raise(("%s: %s (%s) must be %d%s x %d: layers and directions%s x size"):format(self.__name, name,
      tostring(value.shape), count, batched and " x " .. batch or "", size, batched and " x batch" or ""))
  end
  return {native.unbind(batched and value or value:unsqueeze(2), 1)}
end

-- The states of all layers in the form in which they were given.
local function joined(list, batched)
  local all = native.stack(list, 1)
  return batched and all or all:squeeze(2)
end

---------------------------------------------------------------- all layers

-- Runs layer after layer: op(x, place, reverse, weight_ih, ...) gives the results of one of them in one direction, and
-- keeps its last state at the place.
local function run(self, input, op)
  local x, directions = steps_first(self, input), self.directions
  for layer = 1, self.num_layers do
    if layer > 1 and self.dropout > 0 then x = native.dropout(x, self.dropout, self.training) end
    local outputs = {}
    for direction = 1, directions do
      local place = (layer - 1) * directions + direction
      outputs[direction] = op(x, place, direction == 2, weights_of(self, self.endings[place]))
    end
    x = directions == 1 and outputs[1] or native.cat(outputs, 3)
  end
  if input:dim() == 2 then return x:squeeze(2) end
  return self.batch_first and x:transpose(1, 2) or x
end

local function extra_repr(self)
  local parts = {("%d, %d"):format(self.input_size, self.hidden_size)}
  local function add(name, default)
    if self[name] ~= nil and self[name] ~= default then
      parts[#parts + 1] = ("%s=%s"):format(name, tostring(self[name]))
    end
  end
  add("proj_size", 0)
  add("num_layers", 1)
  add("nonlinearity", "tanh")
  add("bias", true)
  add("batch_first", false)
  add("dropout", 0)
  add("bidirectional", false)
  return table.concat(parts, ", ")
end

-- Floating-point operations of a call, for summary(): the products.
local function flops(self, output)
  local rows = output:numel() // output:size(-1)
  local count = 0
  for _, ending in ipairs(self.endings) do
    for _, name in ipairs {"weight_ih", "weight_hh", "weight_hr"} do
      local weight = rawget(self, name .. ending)
      count = count + (weight and 2 * weight:numel() or 0)
    end
  end
  return rows * count
end

---@class nnlua.RNN : nnlua.Module
---@overload fun(input_size: integer, hidden_size: integer, options: table?): nnlua.RNN
local RNN, read_rnn = define("RNN", sizes .. "nonlinearity:{tanh|relu}=tanh, " .. options,
  "An Elman network: h = tanh(W_ih x + b_ih + W_hh h + b_hh), or max(0, ..).  local out, h = rnn(x, h0): h of the "
  .. "last layer at every step, and of every layer at the last one.  " .. shapes .. "States are " .. states .. start,
  "nn.RNN(10, 20, 2)(nn.randn(5, 3, 10))")
recurrent.RNN = RNN

function RNN:init(...)
  self.input_size, self.hidden_size, self.num_layers, self.nonlinearity, self.bias, self.batch_first, self.dropout,
    self.bidirectional = read_rnn(...)
  build(self, 1)
end

function RNN:forward(input, state)
  steps_first(self, input)
  local h0, last = each_state(self, "h0", state, input, self.hidden_size), {}
  local out = run(self, input, function(x, place, reverse, w_ih, w_hh, b_ih, b_hh)
    local output
    output, last[place] = native.rnn_layer(x, w_ih, w_hh, b_ih, b_hh, h0[place], self.nonlinearity, reverse)
    return output
  end)
  return out, joined(last, input:dim() == 3)
end

RNN.extra_repr, RNN.flops = extra_repr, flops

---@class nnlua.GRU : nnlua.Module
---@overload fun(input_size: integer, hidden_size: integer, options: table?): nnlua.GRU
local GRU, read_gru = define("GRU", sizes .. options,
  "A gated recurrent unit: r, z = sigmoid(W x + b + W' h + b') each, n = tanh(W_in x + b_in + r (W_hn h + b_hn)), "
  .. "h = (1 - z) n + z h.  local out, h = gru(x, h0): h of the last layer at every step, and of every layer at "
  .. "the last one.  " .. shapes .. "States are " .. states .. start .. "  Cho et al., arXiv:1406.1078.",
  "nn.GRU(10, 20, 2)(nn.randn(5, 3, 10))")
recurrent.GRU = GRU

function GRU:init(...)
  self.input_size, self.hidden_size, self.num_layers, self.bias, self.batch_first, self.dropout,
    self.bidirectional = read_gru(...)
  build(self, 3)
end

function GRU:forward(input, state)
  steps_first(self, input)
  local h0, last = each_state(self, "h0", state, input, self.hidden_size), {}
  local out = run(self, input, function(x, place, reverse, w_ih, w_hh, b_ih, b_hh)
    local output
    output, last[place] = native.gru_layer(x, w_ih, w_hh, b_ih, b_hh, h0[place], reverse)
    return output
  end)
  return out, joined(last, input:dim() == 3)
end

GRU.extra_repr, GRU.flops = extra_repr, flops

---@class nnlua.LSTM : nnlua.Module
---@overload fun(input_size: integer, hidden_size: integer, options: table?): nnlua.LSTM
local LSTM, read_lstm = define("LSTM", sizes .. options .. ", proj_size:size=0",
  "Long short-term memory: i, f, o = sigmoid(W x + b + W' h + b') each and g = tanh(the same with its own), "
  .. "c = f c + i g, h = o tanh(c).  local out, state = lstm(x, {h0, c0}): h of the last layer at every step, and "
  .. "{h, c} of every layer at the last one.  " .. shapes .. "Both states are " .. states .. "With proj_size h has "
  .. "that many elements, W_hr o tanh(c).  " .. start .. "  Hochreiter and Schmidhuber, Neural Computation 9 (1997).",
  "nn.LSTM(10, 20, 2)(nn.randn(5, 3, 10))")
recurrent.LSTM = LSTM

function LSTM:init(...)
  self.input_size, self.hidden_size, self.num_layers, self.bias, self.batch_first, self.dropout, self.bidirectional,
    self.proj_size = read_lstm(...)
  if self.proj_size > 0 and self.proj_size >= self.hidden_size then
    raise(("LSTM: proj_size must be smaller than hidden_size (%d), got %d"):format(self.hidden_size, self.proj_size))
  end
  build(self, 4)
end

-- {h, c} as two values.
local function pair_of(self, state)
  if state == nil then return nil, nil end
  if type(state) ~= "table" or getmetatable(state) ~= nil or #state ~= 2 then
    raise(("%s: the state must be {h, c}, a list of two tensors, got %s"):format(self.__name,
      args.describe(state)))
  end
  return state[1], state[2]
end

function LSTM:forward(input, state)
  steps_first(self, input)
  local h, c = pair_of(self, state)
  local h0 = each_state(self, "h0", h, input, self.state_size)
  local c0 = each_state(self, "c0", c, input, self.hidden_size)
  local last_h, last_c = {}, {}
  local out = run(self, input, function(x, place, reverse, w_ih, w_hh, b_ih, b_hh)
    local output
    output, last_h[place], last_c[place] = native.lstm_layer(x, w_ih, w_hh, b_ih, b_hh, h0[place], c0[place],
      rawget(self, "weight_hr" .. self.endings[place]), reverse)
    return output
  end)
  local batched = input:dim() == 3
  return out, {joined(last_h, batched), joined(last_c, batched)}
end

LSTM.extra_repr, LSTM.flops = extra_repr, flops

---------------------------------------------------------------- cells

local cell_sizes = "input_size:size, hidden_size:size, bias:flag=true"
local cell_shapes = "  x is batch x input_size, h batch x hidden_size, or both without the batch; nil is zeros."

-- input as one step of a batch.
local function one_step(self, input)
  check_tensor(self, "input", input)
  local dims = input:dim()
  if dims ~= 1 and dims ~= 2 then
    raise(("%s: input (%s) must have 2 dimensions, or 1 without a batch"):format(self.__name, tostring(input.shape)))
  end
  check_features(self, input)
  return dims == 1 and input:reshape(1, 1, -1) or input:unsqueeze(1)
end

local function cell_state(self, name, value, input)
  if value == nil then return nil end
  check_tensor(self, name, value)
  local batched, size = input:dim() == 2, self.hidden_size
  if value:dim() ~= input:dim() or value:size(-1) ~= size or batched and value:size(1) ~= input:size(1) then
    raise(("%s: %s (%s) must be %s%d: %ssize"):format(self.__name, name, tostring(value.shape),
      batched and input:size(1) .. " x " or "", size, batched and "batch x " or ""))
  end
  return batched and value or value:unsqueeze(1)
end

local function cell_result(state, input) return input:dim() == 2 and state or state:squeeze(1) end

local function cell_flops(self, output)
  return output:numel() // self.hidden_size * 2 * (self.weight_ih:numel() + self.weight_hh:numel())
end

---@class nnlua.RNNCell : nnlua.Module
---@overload fun(input_size: integer, hidden_size: integer, options: table?): nnlua.RNNCell
local RNNCell, read_rnn_cell = define("RNNCell", cell_sizes .. ", nonlinearity:{tanh|relu}=tanh",
  "One step of nn.RNN: h = cell(x, h)." .. cell_shapes, "nn.RNNCell(10, 20)(nn.randn(3, 10))")
recurrent.RNNCell = RNNCell

function RNNCell:init(...)
  self.input_size, self.hidden_size, self.bias, self.nonlinearity = read_rnn_cell(...)
  check_sizes(self)
  add_weights(self, 1, self.input_size, "")
end

function RNNCell:forward(input, state)
  local x, h0 = one_step(self, input), cell_state(self, "h", state, input)
  local w_ih, w_hh, b_ih, b_hh = weights_of(self, "")
  local _, h = native.rnn_layer(x, w_ih, w_hh, b_ih, b_hh, h0, self.nonlinearity)
  return cell_result(h, input)
end

RNNCell.extra_repr, RNNCell.flops = extra_repr, cell_flops

---@class nnlua.GRUCell : nnlua.Module
---@overload fun(input_size: integer, hidden_size: integer, options: table?): nnlua.GRUCell
local GRUCell, read_gru_cell = define("GRUCell", cell_sizes, "One step of nn.GRU: h = cell(x, h)." .. cell_shapes,
  "nn.GRUCell(10, 20)(nn.randn(3, 10))")
recurrent.GRUCell = GRUCell

function GRUCell:init(...)
  self.input_size, self.hidden_size, self.bias = read_gru_cell(...)
  check_sizes(self)
  add_weights(self, 3, self.input_size, "")
end

function GRUCell:forward(input, state)
  local x, h0 = one_step(self, input), cell_state(self, "h", state, input)
  local w_ih, w_hh, b_ih, b_hh = weights_of(self, "")
  local _, h = native.gru_layer(x, w_ih, w_hh, b_ih, b_hh, h0)
  return cell_result(h, input)
end

GRUCell.extra_repr, GRUCell.flops = extra_repr, cell_flops

---@class nnlua.LSTMCell : nnlua.Module
---@overload fun(input_size: integer, hidden_size: integer, options: table?): nnlua.LSTMCell
local LSTMCell, read_lstm_cell = define("LSTMCell", cell_sizes,
  "One step of nn.LSTM: h, c = cell(x, {h, c})." .. cell_shapes, "nn.LSTMCell(10, 20)(nn.randn(3, 10))")
recurrent.LSTMCell = LSTMCell

function LSTMCell:init(...)
  self.input_size, self.hidden_size, self.bias = read_lstm_cell(...)
  check_sizes(self)
  add_weights(self, 4, self.input_size, "")
end

function LSTMCell:forward(input, state)
  local x = one_step(self, input)
  local h, c = pair_of(self, state)
  local h0, c0 = cell_state(self, "h", h, input), cell_state(self, "c", c, input)
  local w_ih, w_hh, b_ih, b_hh = weights_of(self, "")
  local _
  _, h, c = native.lstm_layer(x, w_ih, w_hh, b_ih, b_hh, h0, c0)
  return cell_result(h, input), cell_result(c, input)
end

LSTMCell.extra_repr, LSTMCell.flops = extra_repr, cell_flops

return recurrent
