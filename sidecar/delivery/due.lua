-- Bring back what was put aside and is due. It was accepted once, so the outbox's bound does not hold it up.
--
-- KEYS[1] outbox   stream
-- KEYS[2] later    zset: message id by when it comes back, milliseconds since the epoch
-- KEYS[3] waiting  hash: message id -> its fields and values, in msgpack
-- ARGV[1] how many at most
-- ARGV[2] a message that is lost: it alone comes back, whatever its time, with the field "lost"; or ""
--
-- Returns how many came back.

-- Nothing is put aside for longer than a code lives (10 min); what is due later was put aside before the clock was set
-- back, and is due now.
local LONGEST = 11 * 60 * 1000

local due = {}
if ARGV[2] ~= '' then
  due[1] = redis.call('ZSCORE', KEYS[2], ARGV[2]) and ARGV[2]
else
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[1])
  if #due == 0 then
    due = redis.call('ZRANGEBYSCORE', KEYS[2], string.format('%.0f', now + LONGEST), '+inf', 'LIMIT', 0, ARGV[1])
  end
end
local back = 0
for _, id in ipairs(due) do
  local packed = redis.call('HGET', KEYS[3], id)
  redis.call('ZREM', KEYS[2], id)
  redis.call('HDEL', KEYS[3], id)
  if packed then
    local fields = cmsgpack.unpack(packed)
    if ARGV[2] ~= '' then
      fields[#fields + 1] = 'lost'
      fields[#fields + 1] = '1'
    end
    redis.call('XADD', KEYS[1], '*', unpack(fields))
    back = back + 1
  end
end
return back
