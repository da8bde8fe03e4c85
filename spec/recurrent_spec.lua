-- Recurrent layers: names, states, layouts, what they say when used wrongly.  Numbers are in golden_spec.lua.
local helpers = require "spec.helpers"
local nn, says = helpers.nn, helpers.says

local function names(net)
  local list = {}
  for name in net:named_parameters() do list[#list + 1] = name end
  return list
end

-- The words that the message of f's error must have.
local kinds = {"RNN", "GRU", "LSTM"}

local function first_state(state) return nn.is_tensor(state) and state or state[1] end

describe("recurrent layers", function()
  before_each(function() nn.manual_seed(3) end)

  it("have torch's parameters by name and in order", function()
    assert.same({"weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "weight_ih_l0_reverse",
      "weight_hh_l0_reverse", "bias_ih_l0_reverse", "bias_hh_l0_reverse", "weight_ih_l1", "weight_hh_l1", "bias_ih_l1",
      "bias_hh_l1", "weight_ih_l1_reverse", "weight_hh_l1_reverse", "bias_ih_l1_reverse", "bias_hh_l1_reverse"},
      names(nn.GRU(3, 4, 2, {bidirectional = true})))
    local lstm = nn.LSTM(3, 4, 2, {proj_size = 2, bias = false})
    assert.same({"weight_ih_l0", "weight_hh_l0", "weight_hr_l0", "weight_ih_l1", "weight_hh_l1", "weight_hr_l1"},
      names(lstm))
    assert.same({{16, 3}, {16, 2}, {2, 4}, {16, 2}, {16, 2}, {2, 4}},
      (function()
        local shapes = {}
        for i, p in ipairs(lstm:parameters()) do shapes[i] = {p:size(1), p:size(2)} end
        return shapes
      end)())
    assert.same({"weight_ih", "weight_hh", "bias_ih", "bias_hh"}, names(nn.LSTMCell(3, 4)))
  end)

  it("start uniform within 1 / sqrt(hidden_size)", function()
    for _, kind in ipairs(kinds) do
      for _, p in ipairs(nn[kind](30, 100):parameters()) do
        local size = p:detach():abs():max():item()
        assert.is_true(size <= 0.1 and size > 0.08, kind .. ": " .. size)
        assert.is_true(math.abs(p:detach():mean():item()) < 0.02)
      end
    end
  end)

  it("take nil for states of zeros", function()
    local x = nn.randn(5, 2, 3)
    for _, kind in ipairs(kinds) do
      local net, zeros = nn[kind](3, 4, 2), nn.zeros(2, 2, 4)
      local out, state = net(x)
      local again, other = net(x, kind == "LSTM" and {zeros, zeros} or zeros)
      helpers.assert_same(kind, again:detach(), out:detach())
      helpers.assert_same(kind, first_state(other):detach(), first_state(state):detach())
    end
  end)

  it("go on where their state left off", function()
    local x = nn.randn(6, 2, 3)
    for _, kind in ipairs(kinds) do
      local net = nn[kind](3, 4, 2)
      local whole, last = net(x)
      local one, state = net(x:narrow(1, 1, 2))
      local two, stop = net(x:narrow(1, 3, 4), state)
      helpers.assert_close(kind, nn.cat({one, two}, 1):detach(), whole:detach(), {c = 4, scale = 1})
      helpers.assert_close(kind, first_state(stop):detach(), first_state(last):detach(), {c = 4, scale = 1})
    end
  end)

  it("do the same with the batch first and without a batch", function()
    local x = nn.randn(5, 2, 3)
    for _, kind in ipairs(kinds) do
      local net = nn[kind](3, 4, 2, {bidirectional = true})
      local out, state = net(x)
      net.batch_first = true
      local turned, same = net(x:transpose(1, 2))
      helpers.assert_same(kind, turned:transpose(1, 2):detach(), out:detach())
      helpers.assert_same(kind, first_state(same):detach(), first_state(state):detach())
      local alone, own = net(x:select(2, 2))
      assert.equal("5x8", tostring(alone.shape))
      helpers.assert_close(kind, alone:detach(), out:select(2, 2):detach(), {c = 4, scale = 1})
      assert.equal("4x4", tostring(first_state(own).shape))
    end
  end)

  it("work on empty batches", function()
    for _, kind in ipairs(kinds) do
      local net = nn[kind](3, 4)
      local out, state = net(nn.zeros(5, 0, 3))
      assert.equal("5x0x4", tostring(out.shape))
      assert.equal("1x0x4", tostring(first_state(state).shape))
      out:sum():backward()
      assert.equal(0, net.weight_hh_l0.grad:abs():sum():item())
    end
  end)

  it("drop between layers in training only", function()
    local x = nn.randn(5, 2, 3)
    for _, kind in ipairs(kinds) do
      local net = nn[kind](3, 4, 2, {dropout = 1})
      local dropped = net(x)
      helpers.assert_same(kind, net(nn.zeros(5, 2, 3)):detach(), dropped:detach()) -- the second layer sees zeros
      net:eval()
      assert.is_false(net(x):equal(dropped))
      net.dropout = 0
      helpers.assert_same(kind, net:train()(x):detach(), net:eval()(x):detach())
    end
  end)

  it("make a step at a time as cells do", function()
    local x = nn.randn(4, 2, 3)
    for _, kind in ipairs(kinds) do
      local net, cell = nn[kind](3, 4), nn[kind .. "Cell"](3, 4)
      local values = {}
      for name, p in pairs(net:state_dict()) do values[name:gsub("_l0", "")] = p end
      cell:load_state_dict(values)
      local out, h, c = net(x), nil, nil
      for t = 1, 4 do
        h, c = cell(x[t], kind == "LSTM" and h and {h, c} or h)
        helpers.assert_close(kind .. " step " .. t, h:detach(), out[t]:detach(), {c = 4, scale = 1})
      end
    end
  end)

  it("give only the gradients that are asked for", function()
    local x = nn.randn(4, 2, 3)
    for _, kind in ipairs(kinds) do
      local net = nn[kind](3, 4):requires_grad_(false)
      net.bias_hh_l0.requires_grad = true
      local out, state = net(x)
      assert.is_true(out.requires_grad and first_state(state).requires_grad)
      first_state(state):sum():backward()
      assert.is_truthy(net.bias_hh_l0.grad)
      assert.is_nil(net.weight_ih_l0.grad)
    end
  end)

  it("print as what they are", function()
    assert.equal("LSTM(3, 4, proj_size=2, num_layers=2, bias=false, batch_first=true, dropout=0.5, bidirectional=true)",
      tostring(nn.LSTM(3, 4, 2, false, true, 0.5, true, 2)))
    assert.equal("RNN(3, 4, nonlinearity=relu)", tostring(nn.RNN(3, 4, {nonlinearity = "relu"})))
    assert.equal("GRU(3, 4)", tostring(nn.GRU(3, 4)))
    assert.equal("RNNCell(3, 4, nonlinearity=relu)", tostring(nn.RNNCell(3, 4, true, "relu")))
    assert.equal("LSTMCell(3, 4, bias=false)", tostring(nn.LSTMCell(3, 4, false)))
  end)

  it("show their states and products in a summary", function()
    local rows = nn.LSTM(3, 4):summary({5, 2, 3}, {rows = true})
    assert.equal("5x2x4, {1x2x4, 1x2x4}", rows[1].output)
    assert.equal(10 * 2 * 16 * (3 + 4), rows[1].flops)
  end)

  it("stand in a Sequential, which hands on the first result", function()
    assert.equal("5x2x7", tostring(nn.Sequential(nn.GRU(3, 4), nn.Linear(4, 7))(nn.randn(5, 2, 3)).shape))
    says(function() nn.Linear(4, 7)(nn.GRU(3, 4)(nn.randn(5, 2, 3))) end, "parentheses")
  end)

  it("learn to tell which of two symbols came first", function()
    for _, kind in ipairs(kinds) do
      local net, out = nn[kind](2, 8), nn.Linear(8, 2)
      local parameters = net:parameters()
      for _, p in ipairs(out:parameters()) do parameters[#parameters + 1] = p end
      local optimizer, loss = nn.optim.Adam(parameters, {lr = 0.02}), nn.CrossEntropyLoss()
      local last
      for _ = 1, 60 do
        local first = nn.randint(1, 2, {16})
        local x = nn.zeros(6, 16, 2)
        x[1] = nn.F.one_hot(first, 2):to("f32")
        optimizer:zero_grad()
        local _, state = net(x)
        last = loss(out(first_state(state)[1]), first)
        last:backward()
        optimizer:step()
      end
      assert.is_true(last:item() < 0.2, kind .. ": " .. last:item())
    end
  end)
end)

describe("recurrent layers used wrongly", function()
  it("say so when they are made", function()
    says(function() nn.LSTM(3) end, "LSTM: hidden_size is missing")
    says(function() nn.LSTM(3, 0) end, "LSTM: hidden_size must be 1 or more, got 0")
    says(function() nn.GRU(0, 4) end, "GRU: input_size must be 1 or more, got 0")
    says(function() nn.GRU(3, 4, 0) end, "GRU: num_layers must be 1 or more, got 0")
    says(function() nn.LSTM(3, 4, {dropout = 1.5}) end, "LSTM: dropout must be in 0 .. 1, got 1.5")
    says(function() nn.LSTM(3, 4, {proj_size = 4}) end, "LSTM: proj_size must be smaller than hidden_size (4), got 4")
    says(function() nn.GRU(3, 4, {proj_size = 2}) end, "GRU: there is no option 'proj_size'")
    says(function() nn.RNN(3, 4, {nonlinearity = "sigmoid"}) end, 'RNN: nonlinearity is "sigmoid"', "tanh, relu")
    says(function() nn.RNNCell(3, 0) end, "RNNCell: hidden_size must be 1 or more, got 0")
  end)

  it("say which input or state does not fit", function()
    local gru, lstm = nn.GRU(3, 4, 2), nn.LSTM(3, 4, 1, {proj_size = 2, batch_first = true})
    says(function() gru(nn.zeros(5, 2, 7)) end, "GRU: input (5x2x7) has 7 features, but input_size is 3")
    says(function() gru(nn.zeros(3)) end, "GRU: input (3) must have 3 dimensions, or 2 without a batch")
    says(function() gru {1, 2} end, "GRU: input must be a tensor")
    says(function() gru(nn.zeros(0, 2, 3)) end, "must have 1 step or more")
    says(function() gru(nn.zeros(5, 2, 3), nn.zeros(1, 2, 4)) end,
      "GRU: h0 (1x2x4) must be 2 x 2 x 4: layers and directions")
    says(function() gru(nn.zeros(5, 3), nn.zeros(2, 1, 4)) end, "GRU: h0 (2x1x4) must be 2 x 4")
    says(function() lstm(nn.zeros(2, 5, 3), nn.zeros(1, 2, 4)) end,
      "LSTM: the state must be {h, c}, a list of two tensors",
      "got a tensor (1x2x4)")
    says(function() lstm(nn.zeros(2, 5, 3), {nn.zeros(1, 2, 4), nn.zeros(1, 2, 4)}) end,
      "LSTM: h0 (1x2x4) must be 1 x 2 x 2")
    says(function() lstm(nn.zeros(2, 5, 3), {nn.zeros(1, 2, 2), nn.zeros(1, 5, 4)}) end,
      "LSTM: c0 (1x5x4) must be 1 x 2 x 4")
    says(function() lstm(nn.zeros(2, 5, 3), {nn.zeros(1, 2, 2), 3}) end, "LSTM: c0 must be a tensor, got 3")
  end)

  it("say what a cell does not take", function()
    local cell = nn.LSTMCell(3, 4)
    says(function() cell(nn.zeros(2, 2, 3)) end, "LSTMCell: input (2x2x3) must have 2 dimensions, or 1 without a batch")
    says(function() cell(nn.zeros(2, 3), {nn.zeros(1, 4), nn.zeros(2, 4)}) end,
      "LSTMCell: h (1x4) must be 2 x 4: batch x size")
    says(function() cell(nn.zeros(3), {nn.zeros(4), nn.zeros(1, 4)}) end, "LSTMCell: c (1x4) must be 4: size")
    says(function() nn.GRUCell(3, 4)(nn.zeros(2, 3), {}) end, "GRUCell: h must be a tensor")
  end)

  it("name the weight whose shape is wrong", function()
    local x = nn.ones(5, 2, 3)
    says(function() nn.F.lstm_layer(x, nn.ones(16, 3), nn.ones(15, 4)) end, "lstm_layer: weight_hh (15x4)", "4 gates")
    says(function() nn.F.lstm_layer(x, nn.ones(16, 3), nn.ones(16, 3)) end,
      "lstm_layer: weight_hh (16x3) has 3 columns, but the state has 4 elements")
    says(function() nn.F.gru_layer(x, nn.ones(12, 2), nn.ones(12, 4)) end, "gru_layer: weight_ih (12x2) must be 12x3")
    says(function() nn.F.gru_layer(x, nn.ones(12, 3), nn.ones(12, 4), nn.ones(4)) end,
      "gru_layer: bias_ih (4) must be 12")
    says(function() nn.F.rnn_layer(x, nn.ones(4, 3), nn.ones(4, 4), {h0 = nn.ones(3, 4)}) end,
      "rnn_layer: h0 (3x4) must be 2x4")
  end)
end)
