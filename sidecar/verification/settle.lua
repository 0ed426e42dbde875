-- End a hold.
--
-- KEYS[1] verification  hash
-- ARGV[1] holder, as check.lua was given
-- ARGV[2] "release": the proof may be used again
--         "spend":   it is used up, and the person is verified
--         "exchange": the code is used up, and the token takes its place for LIFE
--
-- LIFE     of the token, milliseconds
-- READABLE how long the record is readable after that, milliseconds
--
-- Returns 1, or 0 when the hold was no longer this holder's.

if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then
  return 0
end
redis.call('HDEL', KEYS[1], 'holder', 'held_until')
if ARGV[2] == 'spend' then
  redis.call('HSET', KEYS[1], 'proof', 'spent', 'status', 'verified')
elseif ARGV[2] == 'exchange' then
  local time = redis.call('TIME')
  local expires = time[1] * 1000 + math.floor(time[2] / 1000) + LIFE
  redis.call('HSET', KEYS[1], 'proof', 'token', 'status', 'verified', 'wrong', 0, 'expires', expires)
  redis.call('PEXPIRE', KEYS[1], LIFE + READABLE)
end
return 1
