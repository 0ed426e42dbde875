-- Judge one try at a verification, and hold it when the try is right.
--
-- KEYS[1] verification  hash
-- ARGV[1] what is shown: "code" or "token"
-- ARGV[2] "1" if it is the right one (compared in constant time by the caller), else "0"
-- ARGV[3] the recipient's hash, as the request has it
-- ARGV[4] holder: a random name for this request
--
-- HOLD     how long it may hold, milliseconds
-- ATTEMPTS wrong tries that kill a code
--
-- Returns {"held"} | {"expired"} | {"in_use"} | {"mismatch", tries left} | {"too_many"}: the code is dead

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local record = redis.call('HMGET', KEYS[1], 'to', 'expires', 'wrong', 'proof', 'holder', 'held_until')
-- Gone, spent, out of time, or another recipient's: one answer, so that nobody learns which.
if record[1] ~= ARGV[3] or record[4] ~= ARGV[1] or tonumber(record[2]) <= now then
  return {'expired'}
end
local wrong = tonumber(record[3])
if wrong >= ATTEMPTS then
  return {'too_many'}
end
if record[5] and tonumber(record[6]) > now then
  return {'in_use'}
end
if ARGV[2] ~= '1' then
  redis.call('HINCRBY', KEYS[1], 'wrong', 1)
  return {'mismatch', ATTEMPTS - wrong - 1}
end
redis.call('HSET', KEYS[1], 'holder', ARGV[4], 'held_until', now + HOLD)
return {'held'}
