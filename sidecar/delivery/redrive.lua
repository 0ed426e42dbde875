-- Queue a dead letter again, as it was. What it had cost has been given back, so it costs nothing now.
--
-- KEYS[1] outbox   stream
-- KEYS[2] dead     stream
-- ARGV[1] the dead letter's id
--
-- Returns 1, or 0 when there is none.

local found = redis.call('XRANGE', KEYS[2], ARGV[1], ARGV[1])[1]
if not found then
  return 0
end
local fields = {}
for i = 1, #found[2], 2 do
  local name, value = found[2][i], found[2][i + 1]
  if name ~= 'reason' then
    fields[#fields + 1] = name
    fields[#fields + 1] = name == 'tickets' and '[]' or value
  end
end
redis.call('XADD', KEYS[1], '*', unpack(fields))
return redis.call('XDEL', KEYS[2], ARGV[1])
