--- The chart of run.sh: every side's speed beside PyTorch's, as bars on a logarithmic axis, in SVG.
local style = [[
    text { font: 12px system-ui, sans-serif; fill: #1f2328 }
    .small { font-size: 11px; fill: #59636e }
    .title { font-size: 14px; font-weight: 600 }
    .grid { stroke: #d1d9e0 }
    .one { stroke: #59636e }
    .ours { fill: #1f6feb } .compile { fill: #a475f9 } .jax { fill: #d4762a } .onnx { fill: #2da44e }
    .numpy { fill: #848d97 }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc }
      .small { fill: #9198a1 }
      .grid { stroke: #3d444d }
      .one { stroke: #9198a1 }
      .ours { fill: #58a6ff } .jax { fill: #f0883e } .onnx { fill: #3fb950 }
    }]]

local left, plot, bar, gap, top = 175, 520, 12, 12, 66 -- pixels

-- Each side's speed as a multiple of PyTorch's, for the workloads that PyTorch ran.
local function speeds(run, peers)
  local groups, used, largest, least = {}, {ours = true}, 2, 0.5
  for _, workload in ipairs(run.workloads) do
    local torch = workload.peers.torch
    if torch then
      local group = {name = workload.name}
      local function put(side, speed)
        group[#group + 1] = {side = side, speed = speed}
        used[side], largest, least = true, math.max(largest, speed), math.min(least, speed)
      end
      put("ours", torch.ratio)
      for _, peer in ipairs(peers) do
        local other = workload.peers[peer[1]]
        if other and other ~= torch then put(peer[1], torch.ratio / other.ratio) end
      end
      groups[#groups + 1] = group
    end
  end
  return groups, used, math.floor(math.log(least, 2)), math.ceil(math.log(largest * 1.3, 2))
end

--- The chart, or nil where PyTorch did not run.
---@param run table what results.read gives
---@param peers table[]
---@return string?
return function(run, peers)
  local groups, used, first, last = speeds(run, peers)
  if #groups == 0 then return nil end
  local svg = {}
  local function add(form, ...) svg[#svg + 1] = form:format(...) end
  local function place(speed) return left + plot * (math.log(speed, 2) - first) / (last - first) end

  local height = top
  for _, group in ipairs(groups) do height = height + #group * bar + gap end
  height = height + 14
  add('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d">', left + plot + 45, height,
    left + plot + 45, height)
  add("  <style>\n%s\n  </style>", style)
  add('  <text class="title" x="8" y="20">Speed as a multiple of PyTorch\'s (threads: %s; right of 1 is faster)</text>',
    tostring(run.facts.threads))

  local x = 8
  for _, side in ipairs {{"ours", "nnlua"}, table.unpack(peers)} do
    if used[side[1]] then
      add('  <rect class="%s" x="%d" y="32" width="11" height="11" rx="2"/>', side[1], x)
      add('  <text class="small" x="%d" y="42">%s</text>', x + 16, side[2])
      x = x + 34 + 7 * #side[2]
    end
  end

  for power = first, last do
    local at = place(2 ^ power)
    add('  <line class="%s" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>', power == 0 and "one" or "grid", at, at, top - 4,
      height - 10)
    add('  <text class="small" x="%.1f" y="%d" text-anchor="middle">%g</text>', at, top - 8, 2 ^ power)
  end

  local y = top + 4
  for _, group in ipairs(groups) do
    add('  <text x="%d" y="%.1f" text-anchor="end">%s</text>', left - 10, y + #group * bar / 2 + 4, group.name)
    for _, entry in ipairs(group) do
      local from, to = place(1), place(entry.speed)
      add('  <rect class="%s" x="%.1f" y="%d" width="%.1f" height="%d" rx="1"/>', entry.side, math.min(from, to), y,
        math.max(math.abs(to - from), 1), bar - 2)
      add('  <text class="small" x="%.1f" y="%d">%s</text>', math.max(from, to) + 5, y + bar - 3,
        ("%.3g"):format(entry.speed))
      y = y + bar
    end
    y = y + gap
  end
  add "</svg>"
  return table.concat(svg, "\n")
end
