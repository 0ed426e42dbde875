-- Take a message out for good: acknowledged without being deleted, it would count against the bound for ever.
--
-- KEYS[1] outbox   stream
-- ARGV[1] group
-- ARGV[2] the message's id
--
-- Returns 1, or 0 when it was gone already.

redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
return redis.call('XDEL', KEYS[1], ARGV[2])
