-- Forget a courier that stops, and those that died long ago. Never one that has leases: they would be lost with it.
--
-- KEYS[1] outbox   stream
-- ARGV[1] group
-- ARGV[2] the courier that stops
-- ARGV[3] silent for this long: dead, milliseconds
--
-- Returns how many were forgotten.

local forgotten = 0
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #flat, 2 do
    consumer[flat[i]] = flat[i + 1]
  end
  if consumer.pending == 0 and (consumer.name == ARGV[2] or consumer.idle > tonumber(ARGV[3])) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
    forgotten = forgotten + 1
  end
end
return forgotten
