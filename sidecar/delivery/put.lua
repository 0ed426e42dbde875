-- Queue a message, unless as many are queued as may be.
--
-- KEYS[1] outbox     stream
-- ARGV[1] how many messages it may hold
-- ARGV[2..] the message's fields and values
--
-- Returns the message's id, or nil when the outbox is full.

if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then
  return false
end
return redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
