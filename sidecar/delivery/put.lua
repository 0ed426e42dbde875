-- Queue a message, unless as many are queued as may be.
--
-- KEYS[1] outbox     stream
-- KEYS[2] answered   string: what its request is answered; may be left out
-- ARGV[1] how many messages it may hold
-- ARGV[2] the answer
-- ARGV[3] how long that is kept, milliseconds
-- ARGV[4..] the message's fields and values
--
-- Returns the message's id, or nil when the outbox is full: then nothing is written.

if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then
  return false
end
local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 4))
if KEYS[2] then
  redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
end
return id
