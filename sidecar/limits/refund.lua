-- Give back what was spent for something that did not happen after all.
--
-- Call    EVALSHA refund <n> KEYS ARGV
-- KEYS    n buckets, as gcra.lua keeps them; one named twice is given back twice
-- ARGV    per bucket, in the order of KEYS: emission interval, microseconds
-- Returns flat integers: now (microseconds since the epoch), then per bucket its TAT (microseconds since the epoch),
--         which is 0 when it is empty

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local answer = {now}
for i, key in ipairs(KEYS) do
  local tat = tonumber(redis.call('GET', key) or 0) - tonumber(ARGV[i])
  if tat > now then
    local ms = math.ceil((tat - now) / 1000)
    redis.call('SET', key, string.format('%.0f', tat), 'PX', string.format('%.0f', ms))
  else
    -- What has leaked meanwhile cannot be given back: the bucket is empty, no more.
    redis.call('DEL', key)
    tat = 0
  end
  answer[i + 1] = tat
end
return answer
