-- Make a verification for a recipient, or find the one whose code still lives.
--
-- KEYS[1] current       string: the recipient's newest verification id
-- KEYS[2] verification  hash: the record to make if a new one is needed
-- ARGV[1] new id
-- ARGV[2] the start of every verification's key (an id follows; all share KEYS' cluster slot)
-- ARGV[3] the recipient's hash
-- ARGV[4] channel
-- ARGV[5] life of the code, milliseconds
-- ARGV[6] how long the record is readable after that, milliseconds
-- ARGV[7] wrong tries that kill a code
-- ARGV[8] "same" or "rotate"
-- ARGV[9] the recipient, sealed
-- ARGV[10] how long until another message may be asked for, milliseconds
--
-- Returns {id, life left in milliseconds, 1 if new else 0}.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local old = redis.call('GET', KEYS[1])
if old then
  local key = ARGV[2] .. old
  local record = redis.call('HMGET', key, 'expires', 'wrong', 'proof')
  local expires = tonumber(record[1] or 0)
  local alive = expires > now and tonumber(record[2] or 0) < tonumber(ARGV[7]) and record[3] == 'code'
  if alive and ARGV[8] == 'same' then
    redis.call('HSET', key, 'status', 'queued', 'reason', '', 'again', now + tonumber(ARGV[10]))
    return {old, expires - now, 0}
  end
  if alive then
    -- Replaced: its code is dead from now on.
    redis.call('HSET', key, 'expires', now)
  end
end

local life = tonumber(ARGV[5])
redis.call('HSET', KEYS[2], 'to', ARGV[3], 'sealed', ARGV[9], 'channel', ARGV[4], 'status', 'queued', 'proof', 'code',
  'wrong', 0, 'expires', now + life, 'again', now + tonumber(ARGV[10]))
redis.call('PEXPIRE', KEYS[2], life + tonumber(ARGV[6]))
redis.call('SET', KEYS[1], ARGV[1], 'PX', life)
return {ARGV[1], life, 1}
