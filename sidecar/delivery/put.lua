-- Queue a message, unless as many are queued as may be. In the same step, a courier that has room leases the oldest
-- message that nobody has had: this one, unless others wait before it.
--
-- KEYS[1] outbox     stream
-- KEYS[2] answered   string: what its request is answered; may be left out
-- ARGV[1] the courier that leases; "" for none
-- ARGV[2..9] the values of the message's fields
-- ARGV[10] the answer
-- ARGV[11] how long that is kept, milliseconds
--
-- GROUP   the couriers' group
-- MOST    how many messages it may hold
--
-- Returns nil when the outbox is full: then nothing is written. Else {the message's id}, and where a message was leased
-- its id after it, and its fields and values if it is another one. None is when no courier has ever come (there is no
-- group yet).

if redis.call('XLEN', KEYS[1]) >= MOST then
  return false
end
local id = redis.call('XADD', KEYS[1], '*', 'verification', ARGV[2], 'sealed', ARGV[3], 'locale', ARGV[4],
  'tickets', ARGV[5], 'expires_at', ARGV[6], 'request', ARGV[7], 'past', ARGV[8], 'send_ticket', ARGV[9])
if KEYS[2] then
  redis.call('SET', KEYS[2], ARGV[10], 'PX', ARGV[11])
end
if ARGV[1] == '' then
  return {id}
end
local streams = redis.pcall('XREADGROUP', 'GROUP', GROUP, ARGV[1], 'COUNT', 1, 'STREAMS', KEYS[1], '>')
local leased = streams and not streams.err and streams[1][2][1]
if not leased then
  return {id}
end
return leased[1] == id and {id, id} or {id, leased[1], leased[2]}
