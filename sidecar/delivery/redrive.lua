-- Queue a dead letter again, as it was at first. What it had cost has been given back, so it costs nothing now.
--
-- KEYS[1] outbox   stream
-- KEYS[2] dead     stream
-- ARGV[1] the dead letter's id
-- ARGV[2] now, seconds since the epoch, by the clock that wrote when its code dies
--
-- Returns 1; 0 when there is none; -1 when its code has died, and it is left where it is.

local found = redis.call('XRANGE', KEYS[2], ARGV[1], ARGV[1])[1]
if not found then
  return 0
end
local fields = {}
for i = 1, #found[2], 2 do
  local name, value = found[2][i], found[2][i + 1]
  if name == 'expires_at' and (tonumber(value) or 0) <= tonumber(ARGV[2]) then
    return -1
  end
  -- Whatever became of it before is over: everybody may be asked.
  if name ~= 'reason' and name ~= 'past' and name ~= 'lost' then
    fields[#fields + 1] = name
    fields[#fields + 1] = name == 'tickets' and '[]' or value
  end
end
redis.call('XADD', KEYS[1], '*', unpack(fields))
return redis.call('XDEL', KEYS[2], ARGV[1])
