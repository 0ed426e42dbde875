-- Keep receipts of messages that are not known yet, for a while, and no more than so many.
--
-- KEYS[1] early   hash: hashed id -> receipts, one a line
-- KEYS[2] times   zset: hashed id by when its last receipt came, milliseconds since the epoch
-- ARGV    "park", milliseconds to keep it, how many ids are kept, receipt, hashed ids
--         "peek", hashed ids
--         "take", hashed ids: they are forgotten
--
-- Returns the receipts of the ids that were peeked at, each a text of lines.

if ARGV[1] == 'park' then
  local time = redis.call('TIME')
  local now, keep = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[2])
  for i = 5, #ARGV do
    local had = redis.call('HGET', KEYS[1], ARGV[i])
    -- A vendor repeats itself; what it says twice is kept once, so that a text has few lines.
    if not had then
      redis.call('HSET', KEYS[1], ARGV[i], ARGV[4])
    elseif not string.find('\n' .. had .. '\n', '\n' .. ARGV[4] .. '\n', 1, true) and #had < 1000 then
      redis.call('HSET', KEYS[1], ARGV[i], had .. '\n' .. ARGV[4])
    end
    redis.call('ZADD', KEYS[2], now, ARGV[i])
  end
  local most = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[3])
  local old = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - keep, 'LIMIT', 0, 100)
  for _, id in ipairs(most > #old and redis.call('ZRANGE', KEYS[2], 0, most - 1) or old) do
    redis.call('ZREM', KEYS[2], id)
    redis.call('HDEL', KEYS[1], id)
  end
  redis.call('PEXPIRE', KEYS[1], keep)
  redis.call('PEXPIRE', KEYS[2], keep)
  return {}
end

local found = {}
for i = 2, #ARGV do
  if ARGV[1] == 'take' then
    redis.call('HDEL', KEYS[1], ARGV[i])
    redis.call('ZREM', KEYS[2], ARGV[i])
  else
    found[#found + 1] = redis.call('HGET', KEYS[1], ARGV[i]) or nil
  end
end
return found
