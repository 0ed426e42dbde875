-- Take a message out for good: acknowledged without being deleted, it would count against the bound for ever.
-- In the same step it may be put aside, to come back as a message later.
--
-- KEYS[1] outbox   stream
-- KEYS[2] later    zset: message id by when it comes back, milliseconds since the epoch
-- KEYS[3] waiting  hash: message id -> its fields and values, in msgpack
-- ARGV[1] group
-- ARGV[2] the message's id
-- ARGV[3] milliseconds until it comes back, or "" when it is done with
-- ARGV[4] the id that it keeps on all its ways
-- ARGV[5..] the fields and values that it comes back with
--
-- Returns 1, or 0 when it was gone already; then nothing is put aside.

redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
local taken = redis.call('XDEL', KEYS[1], ARGV[2])
if taken == 1 and ARGV[3] ~= '' then
  local time = redis.call('TIME')
  local due = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[3])
  local fields = {unpack(ARGV, 5)}
  redis.call('HSET', KEYS[3], ARGV[4], cmsgpack.pack(fields))
  redis.call('ZADD', KEYS[2], string.format('%.0f', due), ARGV[4])
end
return taken
