-- Remember who has a message, or may have it, and see which receipts of it came early.
--
-- KEYS[1] posted   hash, as receipt.lua has it
-- KEYS[2] early    hash: hashed id -> receipts, one a line
-- KEYS[3..] vendor ids, strings: our id of the message that a vendor calls so; one for each that is known
-- ARGV[1] our id
-- ARGV[2] verification id
-- ARGV[3] seconds to keep it
-- ARGV[4] how many providers; then per provider its name, its segment, and 1 if it took the message, else 0 (it may have
--         it); then the hashed ids to look for
--
-- Returns for each hashed id its receipts, a text of lines, or nil.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local looked_for = 5 + 3 * tonumber(ARGV[4])

redis.call('HSET', KEYS[1], 'verification', ARGV[2])
for i = 5, looked_for - 1, 3 do
  redis.call('HSETNX', KEYS[1], 'by:' .. ARGV[i], string.format('%.0f - %s', now, ARGV[i + 1]))
  if ARGV[i + 2] == '1' then
    redis.call('HSET', KEYS[1], 'took:' .. ARGV[i], 1)
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
for i = 3, #KEYS do
  redis.call('SET', KEYS[i], ARGV[1], 'EX', ARGV[3])
end
return redis.call('HMGET', KEYS[2], unpack(ARGV, looked_for))
