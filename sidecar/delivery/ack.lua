-- Take a message out for good: acknowledged without being deleted, it would count against the bound for ever.
-- In the same step it may be put aside, to come back as a message later.
--
-- KEYS[1] outbox   stream
-- ARGV[1] the message's id
-- and where it comes back:
-- KEYS[2] later    zset: message id by when it comes back, milliseconds since the epoch
-- KEYS[3] waiting  hash: message id -> its fields and values, in msgpack
-- ARGV[2] milliseconds until it comes back
-- ARGV[3] the id that it keeps on all its ways
-- ARGV[4..] the fields and values that it comes back with
--
-- GROUP   the couriers' group
--
-- Returns 1, or 0 when it was gone already; then nothing is put aside.

redis.call('XACK', KEYS[1], GROUP, ARGV[1])
local taken = redis.call('XDEL', KEYS[1], ARGV[1])
if taken == 1 and KEYS[2] then
  local time = redis.call('TIME')
  local due = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[2])
  local fields = {unpack(ARGV, 4)}
  redis.call('HSET', KEYS[3], ARGV[3], cmsgpack.pack(fields))
  redis.call('ZADD', KEYS[2], string.format('%.0f', due), ARGV[3])
end
return taken
