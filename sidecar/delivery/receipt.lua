-- Remember a message that a provider accepted, or take down what became of it.
--
-- KEYS[1] posted  hash: verification, segment, at (milliseconds since the epoch), state
-- ARGV    "posted", verification id, segment, seconds to keep it
--         "received", state, then the states it may follow ("" is none)
--
-- Returns nil; or, when a receipt moved the message: verification id, segment, milliseconds since it was accepted

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

if ARGV[1] == 'posted' then
  redis.call('HSETNX', KEYS[1], 'state', '')
  redis.call('HSET', KEYS[1], 'verification', ARGV[2], 'segment', ARGV[3], 'at', string.format('%.0f', now))
  redis.call('EXPIRE', KEYS[1], ARGV[4])
  return false
end
local state = redis.call('HGET', KEYS[1], 'state')
for i = 3, #ARGV do
  if state == ARGV[i] then
    redis.call('HSET', KEYS[1], 'state', ARGV[2])
    local found = redis.call('HMGET', KEYS[1], 'verification', 'segment', 'at')
    return {found[1], found[2], now - tonumber(found[3])}
  end
end
return false
