-- Take down what became of a message at one provider.
--
-- KEYS[1] posted  hash: verification; and per provider "by:PROVIDER" -> "AT STATE SEGMENT", AT in milliseconds since
--                 the epoch, STATE "-" before the first receipt; "took:PROVIDER" -> 1 once it is known to have taken it
-- ARGV[1] provider
-- ARGV[2] state
-- ARGV[3..] the states it may follow ("-" is none)
--
-- Returns nil when the message, or this provider's having it, is not known; {} when the receipt is no news; else
-- {verification id, segment, milliseconds since the provider had it, how many others may still bring it, 1 if only this
-- receipt tells that it took the message, and another has it too, else 0}.

-- As LOST in seam.py.
local LOST = {expired = true, undeliverable = true, rejected = true}
-- As _TAKEN in send.py.
local TAKEN = {enroute = true, delivered = true}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local had = redis.call('HGET', KEYS[1], 'by:' .. ARGV[1])
if not had then
  return false
end
local at, state, segment = string.match(had, '^(%S+) (%S+) (.*)$')
for i = 3, #ARGV do
  if state == ARGV[i] then
    redis.call('HSET', KEYS[1], 'by:' .. ARGV[1], string.format('%s %s %s', at, ARGV[2], segment))
    local is_new = TAKEN[ARGV[2]] and redis.call('HSETNX', KEYS[1], 'took:' .. ARGV[1], 1) == 1
    local others, twice, flat = 0, 0, redis.call('HGETALL', KEYS[1])
    for j = 1, #flat, 2 do
      local name = string.match(flat[j], '^by:(.*)$')
      if name and name ~= ARGV[1] and not LOST[string.match(flat[j + 1], '^%S+ (%S+)')] then
        others = others + 1
        if is_new and redis.call('HEXISTS', KEYS[1], 'took:' .. name) == 1 then
          twice = 1
        end
      end
    end
    return {redis.call('HGET', KEYS[1], 'verification'), segment, now - tonumber(at), others, twice}
  end
end
return {}
