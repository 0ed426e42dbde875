-- Give back what was spent for something that did not happen after all.
--
-- Call    EVALSHA refund <1 + n> KEYS ARGV
-- KEYS[1] refunded  string: the mark that these were given back
-- KEYS    n buckets, as gcra.lua keeps them; one named twice is given back twice
-- ARGV[1] how long the mark is kept, milliseconds; 0: there is none, and it is not looked at
-- ARGV    per bucket, in the order of KEYS: emission interval, microseconds
-- Returns flat integers: now (microseconds since the epoch), then per bucket its TAT (microseconds since the epoch),
--         which is 0 when it is empty; now alone when they had been given back

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local answer = {now}
if ARGV[1] ~= '0' and not redis.call('SET', KEYS[1], 1, 'NX', 'PX', ARGV[1]) then
  return answer
end
for i = 2, #KEYS do
  local key = KEYS[i]
  local tat = tonumber(redis.call('GET', key) or 0) - tonumber(ARGV[i])
  if tat > now then
    local ms = math.ceil((tat - now) / 1000)
    redis.call('SET', key, string.format('%.0f', tat), 'PX', string.format('%.0f', ms))
  else
    -- What has leaked meanwhile cannot be given back: the bucket is empty, no more.
    redis.call('DEL', key)
    tat = 0
  end
  answer[i] = tat
end
return answer
