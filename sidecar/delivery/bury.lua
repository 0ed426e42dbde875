-- Take a message out that nobody could send, and keep it for people to look at.
--
-- KEYS[1] outbox   stream
-- KEYS[2] dead     stream
-- ARGV[1] group
-- ARGV[2] the message's id
-- ARGV[3] why
-- ARGV[4] how many dead letters are kept, about
--
-- Returns 1, or 0 when it was gone already.

local found = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
if not found then
  return 0
end
local fields = found[2]
fields[#fields + 1] = 'reason'
fields[#fields + 1] = ARGV[3]
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', unpack(fields))
return redis.call('XDEL', KEYS[1], ARGV[2])
