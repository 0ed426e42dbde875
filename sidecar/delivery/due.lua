-- Bring back what was put aside and is due. It was accepted once, so the outbox's bound does not hold it up.
--
-- KEYS[1] outbox   stream
-- KEYS[2] later    zset: verification id by when it comes back, milliseconds since the epoch
-- KEYS[3] waiting  hash: verification id -> its fields and values, in msgpack
-- ARGV[1] how many at most
-- ARGV[2] one that is due now whatever its time, or ""
--
-- Returns how many came back.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[2] ~= '' then
  redis.call('ZADD', KEYS[2], 'XX', now, ARGV[2])
end
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do
  local packed = redis.call('HGET', KEYS[3], id)
  redis.call('ZREM', KEYS[2], id)
  redis.call('HDEL', KEYS[3], id)
  if packed then
    redis.call('XADD', KEYS[1], '*', unpack(cmsgpack.unpack(packed)))
  end
end
return #due
