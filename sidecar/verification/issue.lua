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
-- ARGV[11] the longest that a code may live, milliseconds
-- ARGV[12] with less to live than that, milliseconds, a code is not worth a message
--
-- Asked for again, a living code is sent again, so that a late first message still works. Three cases:
-- 1. half of its life or more is left: it keeps its end;
-- 2. less is left: it gets a whole life again, as far as ARGV[11] after it was made allows;
-- 3. too little would be left even so: it is replaced, for its message would be dead when it arrives.
--
-- Returns {id, life left in milliseconds, 1 if new else 0}.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local old = redis.call('GET', KEYS[1])
if old then
  local key = ARGV[2] .. old
  local record = redis.call('HMGET', key, 'expires', 'wrong', 'proof', 'made')
  local expires = tonumber(record[1] or 0)
  local alive = expires > now and tonumber(record[2] or 0) < tonumber(ARGV[7]) and record[3] == 'code'
  if alive and ARGV[8] == 'same' then
    local whole = tonumber(ARGV[5])
    if expires - now < whole / 2 then
      expires = math.max(expires, math.min(now + whole, (tonumber(record[4]) or now) + tonumber(ARGV[11])))
    end
    local left = expires - now
    if left >= math.min(whole / 2, tonumber(ARGV[12])) then
      redis.call('HSET', key, 'status', 'queued', 'reason', '', 'again', now + tonumber(ARGV[10]),
        'expires', expires)
      redis.call('PEXPIRE', key, left + tonumber(ARGV[6]))
      redis.call('PEXPIRE', KEYS[1], left)
      return {old, left, 0}
    end
  end
  if alive then
    -- Replaced: its code is dead from now on.
    redis.call('HSET', key, 'expires', now, 'replaced', 1)
  end
end

local life = tonumber(ARGV[5])
redis.call('HSET', KEYS[2], 'to', ARGV[3], 'sealed', ARGV[9], 'channel', ARGV[4], 'status', 'queued', 'proof', 'code',
  'wrong', 0, 'made', now, 'expires', now + life, 'again', now + tonumber(ARGV[10]))
redis.call('PEXPIRE', KEYS[2], life + tonumber(ARGV[6]))
redis.call('SET', KEYS[1], ARGV[1], 'PX', life)
return {ARGV[1], life, 1}
